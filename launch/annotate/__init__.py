"""The command that makes maps and depths for images that have none."""
