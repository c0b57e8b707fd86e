"""Samples grids of codes with a trained prior, in one call.

Shapes: B images, h rows and w columns of their grids.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ...models.priors.base import Prior
from ...models.sampling import GridRequest, SamplingConfig
from ...models.sampling import sample as sample_grids
from ..checkpoint.loading import LoadedPrior
from .condition_fields import check_table

EXACT = SamplingConfig()


def sample(
    prior: LoadedPrior | Prior,
    fields: Mapping[str, Tensor] | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    config: SamplingConfig = EXACT,
    count: int = 1,
) -> Tensor:
    """Codes of new images, to be decoded by the tokenizer of the prior.

    Equal arguments give equal codes on one kind of device: image b has the number b, and a code's randomness belongs
    to (seed, image's number, row, column), so that more rows or a larger ``count`` change none of the first images.

    Args:
        prior: as ``load_prior`` gives it, or a network in evaluation mode.
        fields: what the condition reads, a row for each image, such as ``{"cls": labels}``.
        size: h and w in codes, at least the prior's window, which is the default.
        seed: of all images.
        config: temperature, top-k, top-p, guidance, and how to go about it.
        count: images, where the prior reads no field.

    Returns:
        (B, h, w) int64 on the prior's device.

    Raises:
        KeyError: a field that the condition reads is missing.
        ValueError: a field has a number that the prior does not know, the fields differ in rows, the grid is smaller
            than the window, or guidance is asked of a prior that always had its condition.
    """
    network = prior.model if isinstance(prior, LoadedPrior) else prior
    fields = fields or {}
    wanted = {name: network.condition.field(fields, name) for name in network.condition.fields}
    for name in network.condition.known:
        check_table(network.condition, name, wanted[name])
    images = len(next(iter(wanted.values()))) if wanted else count
    if images < 1:
        raise ValueError(f"there must be at least one image to sample, got {images}")
    with torch.no_grad():
        return sample_grids(GridRequest(network, wanted, size or network.window, range(images), seed, config)).codes
