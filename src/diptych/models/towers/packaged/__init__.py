"""Towers of other packages: transformers, open_clip, timm."""
