"""Checkpoints that are complete or absent, resharding, and model files for inference."""
