"""WebDataset tar shards with an index beside them: writing, scanning, reading, caching."""
