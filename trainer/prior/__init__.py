"""Stage 2: training the autoregressive prior over a tokenizer's codes."""
