"""Rendered tissue: tiles of four families of tumours with four kinds each, and whole slides with a share of tumour."""
