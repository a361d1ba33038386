"""Scenes of things with colours, sizes and relations, and the sets that are made of them."""
