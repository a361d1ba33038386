"""Protocols for image-text pairs."""
