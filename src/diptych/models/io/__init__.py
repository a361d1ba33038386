"""Models in and out: folders, published weights, export."""
