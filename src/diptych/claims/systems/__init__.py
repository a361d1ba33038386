"""Claims, one file a system."""
