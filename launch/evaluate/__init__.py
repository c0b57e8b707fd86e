"""The command that measures a trained network on a data set."""
