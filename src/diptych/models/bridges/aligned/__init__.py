"""Bridges trained on preferences, and bridges that describe an image before they answer."""
