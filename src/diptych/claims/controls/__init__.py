"""Controls that the runner adds to every claim."""
