"""The command that edits photos."""
