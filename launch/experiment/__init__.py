"""The command that runs the paper's comparisons: trains, evaluates, and writes a table beside the published figures."""
