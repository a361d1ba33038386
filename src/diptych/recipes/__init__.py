"""Trainable systems, one a file. A recipe is its configuration: read it beside the paper's method section."""
