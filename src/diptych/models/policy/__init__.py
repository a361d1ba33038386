"""Policies: models that act, their value models, and how their answers are sampled."""
