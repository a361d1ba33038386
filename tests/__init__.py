"""A regular package, so that a distribution which installs a top-level `tests` of its own does not stand before it in spawned processes."""
