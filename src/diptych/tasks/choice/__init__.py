"""Protocols of questions with a checkable answer: options, and lengths."""
