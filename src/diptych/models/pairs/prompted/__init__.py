"""Frozen dual encoders that read class names after learned context."""
