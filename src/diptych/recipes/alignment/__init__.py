"""Recipes that align a model with preferences or rewards."""
