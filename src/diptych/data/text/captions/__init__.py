"""Captions: cutting, cleaning, reordering, several per image, wrong ones as negatives, and the regions of their phrases."""
