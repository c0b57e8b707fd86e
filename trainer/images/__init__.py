"""Image files to pixels and back, whole or by region; nothing here knows tar files."""
