"""Models of transformers, open_clip and timm, taken apart and opened as ours."""
