"""Detectors that answer at every place of their maps: the dynamic head, what words do in it, and released weights."""
