"""Arms and held-out splits of a comparison."""
