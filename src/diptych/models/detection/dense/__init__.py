"""Dense detectors: predictions at every position of the feature maps, without queries or proposals."""
