"""Protocols for generative models."""
