"""Pedestrians with attributes, in pictures of several cameras."""
