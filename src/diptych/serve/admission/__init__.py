"""Who may come in, how often, with how much."""
