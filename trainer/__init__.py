"""Training, data, checkpoints and jobs: everything that knows ranks, files, engines or time."""
