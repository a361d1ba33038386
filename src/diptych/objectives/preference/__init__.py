"""Losses of pairs of answers of which one is preferred."""
