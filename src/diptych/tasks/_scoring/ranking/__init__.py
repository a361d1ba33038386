"""Where the right one stands in a list."""
