"""The collection that a service serves: its data, changes to its items, and reloading with another model."""
