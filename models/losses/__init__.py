"""Reconstruction, perceptual, adversarial and cross-entropy losses."""
