"""Relation tagging of pictures that have boxes and captions: relations of captions, scored by a trained tagger (RLIPv2)."""
