"""Arms of planted models, whose skill and faults are known."""
