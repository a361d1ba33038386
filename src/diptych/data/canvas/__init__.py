"""Composition of pictures and text into one picture."""
