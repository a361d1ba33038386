"""Queries for detectors that describe what they ask for."""
