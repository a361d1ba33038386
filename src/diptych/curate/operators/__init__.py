"""Curation steps by system."""
