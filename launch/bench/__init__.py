"""Benchmarks: ``python -m smalti.launch.bench NAME``."""
