"""Models behind an address: the line to a server, what is asked and read, and the answers that are kept."""
