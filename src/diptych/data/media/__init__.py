"""Media: decoding, formats, augmentation and transforms."""
