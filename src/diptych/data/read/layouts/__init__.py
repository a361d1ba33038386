"""Layouts of other tools and data sets, and what of a folder was not read."""
