"""Tar shards: written, indexed, verified."""
