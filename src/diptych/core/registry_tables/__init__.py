"""Built-in names with their entry points, by registry (`core.registry`)."""
