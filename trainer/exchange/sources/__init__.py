"""Files of other projects, read without trust: their tensors, and what becomes of each."""
