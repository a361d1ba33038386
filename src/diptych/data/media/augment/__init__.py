"""Random augmentation of pictures for training: colours, geometry, multiple views."""
