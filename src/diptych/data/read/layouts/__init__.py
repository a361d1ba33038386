"""Layouts of other tools and data sets, and the files of a folder that were not read."""
