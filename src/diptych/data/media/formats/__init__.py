"""Readers of image, cloud, slide and video formats that Pillow cannot read or whose cost it does not bound."""
