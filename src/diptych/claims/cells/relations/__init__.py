"""Arms about boxes, relations and names of things."""
