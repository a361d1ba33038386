"""Boxes in space, and the registry entries of points and rooms."""
