"""What depends on the device of a run: values that are read a step late, memory that runs out, blocks that are compiled."""
