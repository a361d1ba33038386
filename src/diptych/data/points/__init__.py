"""Points of shapes and rooms: lists of shapes, frames with depth, things in rooms and texts about them."""
