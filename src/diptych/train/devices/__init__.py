"""Parts of a run that depend on its device: values that are read a step late, memory that runs out, blocks that are compiled."""
