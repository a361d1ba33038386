"""Concepts with their names and their parents: reading, reachability, captions."""
