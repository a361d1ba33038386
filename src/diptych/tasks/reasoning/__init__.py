"""Protocols for problems that take several steps."""
