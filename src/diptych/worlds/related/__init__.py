"""Two shapes in a stated relation, exemplars of one relation, and a checker of generated pictures."""
