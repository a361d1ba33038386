"""Cross-encoders: models that read an image and a text together and score whether they match."""
