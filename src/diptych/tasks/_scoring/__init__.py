"""Records, ranks, average precision and intervals."""
