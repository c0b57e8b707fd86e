"""Shards of codes whose samples are rows of arrays, and not a file each."""
