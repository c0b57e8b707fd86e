"""How the bytes of shards are got at: opened, fetched together, fetched ahead, read in order."""
