"""Systems that act at inference time, one a file."""
