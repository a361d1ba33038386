"""Ways to tune any recipe (`core.contracts.Tuning`), a way a file: adapters, rates, blending, a teacher, positions of another count."""
