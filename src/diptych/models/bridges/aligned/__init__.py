"""Bridges that learn from preferences, and that answer after their own descriptions."""
