"""Losses of words."""
