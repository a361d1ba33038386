"""Model architectures and their inference wrappers: towers, dual encoders, heads over frozen encoders, embedders, other
libraries' models, export."""
