"""Scenes of things with colours, sizes and relations, and the data sets made of them."""
