"""Bridges that learn from preferences, and that answer behind their own descriptions."""
