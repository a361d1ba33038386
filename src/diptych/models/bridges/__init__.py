"""Bridges: from the features of an image encoder to a language model that reads them as words."""
