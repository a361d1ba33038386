"""Shared by recipes that start from trained encoders."""
