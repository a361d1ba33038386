"""How commands read their options, say what they mean, and print."""
