"""Steps from a text to token ids: subwords, masked and dropped words, and the token positions of entities."""
