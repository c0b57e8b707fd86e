"""The commands that send images through a tokenizer, or the codes of some back into images."""
