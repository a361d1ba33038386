"""Ranking metrics: ranks, recall at K, average precision."""
