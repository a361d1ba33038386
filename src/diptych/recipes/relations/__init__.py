"""Recipes that detect relations."""
