"""Stage 1: training the VQGAN tokenizer."""
