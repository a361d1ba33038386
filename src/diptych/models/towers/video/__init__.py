"""Towers over the frames of a clip."""
