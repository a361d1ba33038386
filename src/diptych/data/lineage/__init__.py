"""Lineage of data on disk: what made a folder, the whole life of a row, data cards."""
