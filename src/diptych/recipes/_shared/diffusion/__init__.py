"""Shared by recipes of diffusion models."""
