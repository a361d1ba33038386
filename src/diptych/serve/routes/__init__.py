"""Routes by theme."""
