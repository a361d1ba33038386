"""Curation steps, one file a system."""
