"""Whole slides: tissue, tiles at one scale, and features of each tile."""
