"""One process of a job: its place among the others, and what it says."""
