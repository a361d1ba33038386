"""Questions about pictures with their answers and reasons."""
