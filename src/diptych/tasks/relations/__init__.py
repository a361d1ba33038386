"""Protocols for relations in images."""
