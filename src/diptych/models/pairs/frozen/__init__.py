"""Trainable models over two frozen encoders."""
