"""Towers out of packages: transformers, open_clip, timm."""
