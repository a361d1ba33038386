"""Entity graphs, and a model that reads images and texts with the entities that a text names."""
