"""Editing: what an editor reads of a photo, and how what it makes comes back into the photo."""
