"""Systems that act at inference time. One a file."""
