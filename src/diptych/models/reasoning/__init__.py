"""Reasoning networks: message passing, symbolic goals and proposition-wise matching."""
