"""Arms that adapt a small CLIP to other pictures."""
