"""Palettes of colors, found in the images of a data set."""
