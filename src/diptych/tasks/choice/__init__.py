"""Questions with a checkable answer: options, and lengths."""
