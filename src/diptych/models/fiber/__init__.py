"""FIBER: cross-attention inside the upper blocks of an image and a text tower, which can be switched off."""
