"""Text backends: a grammar, an n-gram model, a language model in a folder or a GGUF file, an endpoint."""
