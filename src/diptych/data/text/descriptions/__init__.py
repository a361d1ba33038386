"""Detector queries that describe what is searched for."""
