"""Recipes that tie words to places."""
