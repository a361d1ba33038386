"""Storage and comparison of vectors: a folder on this machine, a Qdrant server, or an index that another process has open."""
