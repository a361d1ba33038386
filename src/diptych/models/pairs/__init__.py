"""Models of an image and its texts."""
