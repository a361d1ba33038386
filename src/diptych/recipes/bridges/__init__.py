"""Recipes that put an image encoder before a language model."""
