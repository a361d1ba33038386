"""What is learned over two frozen encoders."""
