"""From tiles to a slide."""
