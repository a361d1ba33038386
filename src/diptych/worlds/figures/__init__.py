"""Two stick figures in an interaction: key points, masks, reference pictures, and a checker of generated pictures."""
