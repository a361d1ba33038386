"""Captions: cut, cleaned, reordered, several an image, wrong ones beside right ones, and what their phrases mean in the picture."""
