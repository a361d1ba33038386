"""BLIP: one text transformer as text encoder, image-grounded text encoder and image-grounded text decoder."""
