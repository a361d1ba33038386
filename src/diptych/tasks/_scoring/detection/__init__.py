"""Matching of boxes and masks, and average precision."""
