"""Relations for pictures that have boxes and captions: what captions mention, judged by a trained tagger (RLIPv2)."""
