"""Protocols for models that write."""
