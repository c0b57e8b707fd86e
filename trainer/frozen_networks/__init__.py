"""Frozen networks, of users or published: how they are loaded, and what they say of images and of sets of them."""
