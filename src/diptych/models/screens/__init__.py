"""Models that act on pictures of applications."""
