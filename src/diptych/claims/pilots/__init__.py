"""Short trainings before a comparison."""
