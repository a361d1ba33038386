"""What recipes share that begin with trained encoders."""
