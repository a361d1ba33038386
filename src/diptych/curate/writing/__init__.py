"""Texts that are written for a pool: requests, answers that are kept, and the backends that write."""
