"""Video towers over the frames of a clip."""
