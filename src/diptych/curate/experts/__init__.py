"""Vision experts: what frozen models, or the data themselves, find in an image, as findings with scores and boxes."""
