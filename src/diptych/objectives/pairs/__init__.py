"""Losses of two batches: images and texts."""
