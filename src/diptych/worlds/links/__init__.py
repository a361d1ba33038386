"""Shapes that are linked in pairs: visible relations, with captions that name them."""
