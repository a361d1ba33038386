"""Models of image-text pairs: dual encoders, cross-encoders and classifiers."""
