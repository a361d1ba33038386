"""Protocols for visual relations and scene graphs."""
