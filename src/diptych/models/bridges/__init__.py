"""Bridges: map the features of an image encoder to input embeddings of a language model."""
