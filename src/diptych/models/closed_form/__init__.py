"""Models from raw input in closed form, without training: ridge regression from pixels to words, the nearest training picture."""
