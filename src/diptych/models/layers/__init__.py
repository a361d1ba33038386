"""Parts that many models are built from."""
