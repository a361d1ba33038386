"""Arms on persons, tissue and clips."""
