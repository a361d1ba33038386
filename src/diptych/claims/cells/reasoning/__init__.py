"""Arms on generated problems, and on sets of pictures that differ little."""
