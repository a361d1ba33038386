"""Compositionality probes: true captions against wrong ones that differ in one thing, in word order, or in roles."""
