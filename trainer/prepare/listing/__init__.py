"""What is to be packed: samples before they are, many of them in little memory, and which are for validation."""
