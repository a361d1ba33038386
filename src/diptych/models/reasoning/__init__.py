"""Networks that answer problems by passing messages between their objects."""
