"""Rooms as media: pictures with depth and pose, clouds of points, the things in them."""
