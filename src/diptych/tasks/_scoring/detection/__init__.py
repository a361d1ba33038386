"""Boxes against boxes, and their average precision."""
