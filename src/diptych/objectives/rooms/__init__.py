"""Losses between rooms and what is seen or written of them."""
