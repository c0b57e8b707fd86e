"""Benchmarks: ``smalti bench NAME``."""
