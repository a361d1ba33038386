"""Classes from vectors: classifiers that labels train."""
