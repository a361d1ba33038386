"""Solid things in space: point clouds, rendered views and captions."""
