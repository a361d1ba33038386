"""Losses of diffusion models on plain tensors, and which steps of noise they are taken at."""
