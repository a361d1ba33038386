"""Recipes over point clouds."""
