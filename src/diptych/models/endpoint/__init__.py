"""Models behind an address: connection to a chat-completions server, requests, responses and the cache of answers."""
