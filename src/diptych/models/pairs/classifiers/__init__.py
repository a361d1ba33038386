"""Classifiers trained with labels."""
