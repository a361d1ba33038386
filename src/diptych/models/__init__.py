"""Modules and what runs them: towers, dual encoders, heads over frozen encoders, embedders, other libraries' models, export."""
