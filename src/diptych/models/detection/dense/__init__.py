"""Detectors that answer at every place of the maps: no queries, no proposals."""
