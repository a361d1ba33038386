"""Shared by recipes that generate texts: negatives, paraphrases, knowledge."""
