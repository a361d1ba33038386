"""Ways to tune any recipe (`core.contracts.Tuning`), one per module: adapters, learning rates, blending, distillation, resized
positions."""
