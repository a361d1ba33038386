"""Files of pictures, clouds, slides and videos that no decoder of Pillow reads or bounds."""
