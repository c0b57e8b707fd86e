"""Tars read from their beginning to their end by webdataset, as it is."""

from collections.abc import Sequence
from typing import Any

import webdataset


def web_dataset(urls: Sequence[str]) -> Any:
    """webdataset's own pipeline over some shards, in order; its stages may be added."""
    return webdataset.WebDataset(list(urls), shardshuffle=False)
