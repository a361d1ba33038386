"""Duplicate removal: exact, near, semantic and text duplicates."""
