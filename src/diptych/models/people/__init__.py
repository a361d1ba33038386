"""Models of persons: PLIP and UniPT."""
