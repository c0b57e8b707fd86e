"""smalti: image tokenizers and autoregressive image priors, trained at any scale under DeepSpeed."""

__version__ = "0.1.0"
