"""Captions: how near they are to what people wrote, what they name, and which of several a model prefers."""
