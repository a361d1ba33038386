"""Texts about persons, generated from their attributes."""
