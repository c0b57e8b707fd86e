"""Process groups, signals, DeepSpeed engines and sequence parallelism."""
