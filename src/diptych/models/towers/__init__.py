"""Encoders of one side: image or text."""
