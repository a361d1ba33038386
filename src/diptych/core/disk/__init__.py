"""File utilities: atomic writing, locking, naming, caching, reading JSON."""
