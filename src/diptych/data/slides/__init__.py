"""Whole slides: where their tissue lies, their tiles at one scale, and what was computed of each."""
