"""Curation steps that keep or drop rows by their images or texts."""
