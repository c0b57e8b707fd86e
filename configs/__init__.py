"""YAML configs, shipped as package data and found by name."""
