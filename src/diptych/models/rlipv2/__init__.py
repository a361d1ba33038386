"""RLIPv2 and related detectors of entities and their relations."""
