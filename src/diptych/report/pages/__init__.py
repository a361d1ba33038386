"""Whole pages, one a kind of work; their building blocks lie in the folder above."""
