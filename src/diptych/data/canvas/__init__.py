"""Pictures and words laid out as one picture."""
