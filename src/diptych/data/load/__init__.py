"""Order, stream and batches."""
