"""Pairs of answers from a model's own samples: claims, yes/no labels, scores, pairs, length balance."""
