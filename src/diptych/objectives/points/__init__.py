"""Losses of point clouds: points with pixels, regions matched to things."""
