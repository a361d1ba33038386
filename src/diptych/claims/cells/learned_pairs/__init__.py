"""Arms that learn from image-text pairs."""
