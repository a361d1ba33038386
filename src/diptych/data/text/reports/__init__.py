"""Radiology reports: sections, sentences, negation and uncertainty, findings by rules."""
