"""Recipes that write text."""
