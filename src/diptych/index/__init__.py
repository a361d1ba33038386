"""Search over embeddings. `exact` is the oracle; every other kind of index is measured against it."""
