"""What several recipes hold."""
