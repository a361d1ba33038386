"""Parts of LifelongMemory: a log of captions, its digest, what is asked of it, and what comes back."""
