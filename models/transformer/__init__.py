"""Building blocks of transformers: attention, blocks, rotary embeddings, sequence parallelism."""
