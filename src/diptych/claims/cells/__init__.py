"""Runnable bodies of arms: each a frozen dataclass, whose fields are the arm's configuration, called with a `Cell`."""
