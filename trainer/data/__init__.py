"""Shards to batches: which samples, which crops, in which order."""
