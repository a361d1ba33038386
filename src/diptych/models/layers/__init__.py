"""Layers shared by many models."""
