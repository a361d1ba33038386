"""Pictures changed at random for training: colours, places, several views of one."""
