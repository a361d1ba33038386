"""Slide-level scores from tiles."""
