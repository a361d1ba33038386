"""Shared by recipes that put image features before a language model."""
