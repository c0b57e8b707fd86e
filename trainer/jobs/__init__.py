"""The life of a run on a cluster: start, preflight, failures, restarts, report."""
