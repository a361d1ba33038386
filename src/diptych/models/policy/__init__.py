"""Policies for reinforcement learning, their value models, and the sampling of their answers."""
