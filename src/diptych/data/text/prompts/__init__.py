"""Prompts: how they are put together, and where pictures, names and learned vectors stand in them."""
