"""Making shards offline: packing images, and encoding them to codes."""
