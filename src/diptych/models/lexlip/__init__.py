"""LexLIP: sparse term weights of images and texts over one vocabulary."""
