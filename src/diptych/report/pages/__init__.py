"""Whole pages, one a kind of work; their building blocks lie beside this folder."""
