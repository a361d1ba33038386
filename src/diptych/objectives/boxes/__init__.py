"""Losses of detected pairs: matching, boxes, classes."""
