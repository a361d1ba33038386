"""Two stick figures that do something together: key points, masks, reference pictures, and a checker of generated pictures."""
