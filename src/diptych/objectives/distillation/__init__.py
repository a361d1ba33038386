"""Losses against a teacher."""
