"""The demo's procedural landscapes, with a label for every pixel."""
