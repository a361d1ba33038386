"""Protocols for images and texts."""
