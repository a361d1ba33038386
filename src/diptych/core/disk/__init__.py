"""Files that are whole or not there: writing, locking, naming, caching, reading JSON."""
