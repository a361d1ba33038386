"""Recipes that ground texts in image regions."""
