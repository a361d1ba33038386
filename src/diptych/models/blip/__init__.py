"""BLIP: one text transformer that reads alone, reads with a picture, and writes."""
