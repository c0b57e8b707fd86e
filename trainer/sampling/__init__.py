"""Sampling from a trained prior into image files."""
