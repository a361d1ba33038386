"""Caption scores: similarity to references, objects mentioned, and preference among several captions."""
