"""Recipes that bring images and texts together."""
