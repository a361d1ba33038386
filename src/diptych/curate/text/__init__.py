"""Texts: language, entries, balance."""
