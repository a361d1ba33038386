"""Late interaction: token-wise similarity of images and texts (FILIP)."""
