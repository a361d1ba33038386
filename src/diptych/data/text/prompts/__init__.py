"""Prompts: templates, and the positions of pictures, names and learned vectors in them."""
