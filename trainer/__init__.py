"""Everything that knows ranks, files, engines or time."""
