"""Frozen dual encoders that read class names behind learned context."""
