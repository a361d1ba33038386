"""Object-centric encoders: pictures as sets of slots, and the single vectors and grids that they are compared with."""
