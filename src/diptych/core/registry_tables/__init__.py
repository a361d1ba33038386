"""Names of what is built in, with their entry points, by registry (`core.registry`)."""
