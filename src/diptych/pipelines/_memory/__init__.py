"""Parts of LifelongMemory: a log of captions, its digest, prompts, and parsed replies."""
