"""Images and texts compared token by token (FILIP)."""
