"""A tokenizer cut down to some of its codes, so that a prior over it knows no others.

The published repository renumbers the codes of a prior (``remap``) and draws one for those without a number. Here the
codebook itself becomes smaller: a vector goes to the nearest code that is left, and decoding, digests and priors need
to know of nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

KINDS = ("vq", "ema", "cosine", "gumbel")  # whose codes are rows of tables, each by itself
TABLES = ("embedding.weight", "embedding.cluster_size", "embedding.embed_avg", "idle", "embed.weight", "proj.weight",
          "proj.bias")  # fmt: skip


def cut_down(
    weights: Mapping[str, Tensor], metadata: Mapping[str, Any], codes: Sequence[int]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and metadata of a VQGAN that has these codes alone, numbered anew in their order.

    The metadata keep which codes of which tokenizer they were, under ``former_codes``.

    Raises:
        ValueError: the codes cannot be parted, or fewer than two are left.
    """
    quantizer = metadata["model"].get("quantizer", {}) if metadata["task"] == "vqgan" else {}
    if quantizer.get("kind") not in KINDS:
        raise ValueError(
            f"only VQGANs with codes of the kinds {', '.join(KINDS)} can be cut down to some of them, this is a "
            f"{metadata['task']} of {quantizer.get('kind', 'no codes')}"
        )
    if len(codes) < 2:
        raise ValueError(f"a codebook has at least 2 codes, and {len(codes)} would be left")
    rows = torch.tensor(codes)
    tables = {f"quantize.{name}" for name in TABLES}
    smaller = {name: tensor[rows].clone() if name in tables else tensor for name, tensor in weights.items()}
    model = metadata["model"] | {"quantizer": quantizer | {"codebook_size": len(codes)}}
    former = {"tokenizer": metadata["digest"], "codes": list(codes)}
    return smaller, {**metadata, "model": model, "codes": len(codes), "former_codes": former}
