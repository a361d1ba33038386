"""Trainable systems, one per file. A recipe is a configuration dataclass with the model, features and losses of the paper."""
