"""Frozen networks in TorchScript files that users name: how they are loaded, and what they say of images."""
