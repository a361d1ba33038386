"""Rewards: scores of answers that a policy is trained on. The same objects serve as metrics."""
