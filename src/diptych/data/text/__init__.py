"""Text processing: captions, prompts, tokenization."""
