"""Shapes that are linked in pairs: relations that can be seen, and said."""
