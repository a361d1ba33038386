"""What recipes share that put pictures before a language model."""
