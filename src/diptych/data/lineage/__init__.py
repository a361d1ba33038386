"""Lineage of data on disk: the steps that produced a folder, the history of a row, data cards."""
