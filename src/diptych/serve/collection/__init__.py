"""The collection that a service serves: its data, changes of its items, and another model in its place."""
