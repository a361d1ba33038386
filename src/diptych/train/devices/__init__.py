"""Device-dependent parts of a run: delayed reading of values, out-of-memory handling, compiled blocks."""
