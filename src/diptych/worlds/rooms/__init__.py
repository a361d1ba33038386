"""Furnished rooms: coloured points with classes and objects, pictures with depth and poses, descriptions and questions."""
