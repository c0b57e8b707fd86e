"""Shards read from their beginning to their end, without any index (``fetch: stream``)."""
