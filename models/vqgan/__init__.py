"""The VQGAN autoencoder and its tiled encoding and decoding."""
