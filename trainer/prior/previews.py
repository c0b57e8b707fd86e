"""What a prior in training samples: validation images completed, drawn freely and drawn greedily.

Sampling goes through the key/value cache, on rank 0, with a copy of the averaged weights, so that it touches nothing of
the training. It costs what it costs; when it may happen is decided by the time it took, as a share of the time trained.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...models.bounds import PositiveShare, Width, check_ranges
from ...models.conditions.edit import MASKED
from ...models.priors.base import Prior
from ...models.sampling import UNFILLED, GridRequest, SamplingConfig, sample_steps
from ...models.vqgan.autoencoder import VQGAN
from ...models.vqgan.palette import Palette
from ..distributed import ranks
from ..training.metrics import grid

FIRST_TRY = 10  # steps of training that the first attempt is taken to cost
PROBE_STEPS = 2  # codes that are sampled before the price of all is known


@dataclass(frozen=True)
class PreviewConfig:
    """How much is shown, and at what cost."""

    images: Width = 4
    share: PositiveShare = 0.02  # of the training's time that previews may take; one that would take more is left out
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(top_k=100))

    def __post_init__(self) -> None:
        if self.images < 1 or not 0 < self.share <= 1:
            raise ValueError(
                f"images must be at least 1 and share in (0, 1], got {self.images} and {self.share}; "
                "leave previews out for none"
            )
        check_ranges(self)


class Budget:
    """Counts what was trained and what was spent on previews, in seconds of rank 0.

    Args:
        share: of the trained time that may be spent.
        clock: seconds since some moment.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.share = share
        self.clock = clock
        self.trained = 0.0
        self.spent = 0.0
        self.cost = 0.0  # of the next preview, as far as it is known
        self._steps = 0

    def train(self, seconds: float) -> None:
        """Note one optimizer step."""
        self.trained += seconds
        self._steps += 1

    @property
    def left(self) -> float:
        """What may be spent now."""
        return self.share * self.trained - self.spent

    def affordable(self) -> bool:
        """Whether a preview may be tried. Every rank must call this; rank 0's times decide."""
        first = FIRST_TRY * self.trained / max(1, self._steps)
        return bool(ranks.broadcast_object(max(self.cost, first) <= self.left))


def sampled_preview(
    prior: Prior,
    vqgan: Callable[[], VQGAN | Palette],
    fields: Mapping[str, Tensor],
    codes: Tensor,
    config: PreviewConfig,
    affordable: Callable[[float], bool],
) -> dict[str, Tensor]:
    """The preview, uint8 (H, W, 3): the images, each one's upper half completed, drawn, drawn greedily; row by row.

    Of an editor: the images, what is masked of each made anew, the same greedily.

    Args:
        prior: in evaluation mode; its window is the size of the codes.
        vqgan: gives what decodes the codes, on the prior's device.
        fields: what the prior's condition reads.
        codes: (B, h, w) of validation images.
        config: of the previews.
        affordable: whether sampling may go on, given the share of it that is done.

    Returns:
        Nothing when it is not affordable.
    """
    upper = codes.clone()
    upper[:, codes.shape[1] // 2 :] = UNFILLED
    empty = torch.full_like(codes, UNFILLED)
    rows, columns = codes.shape[1:]
    how = config.sampling
    if how.lanes == 1:  # one forward for all images instead of one for each
        lanes = len(codes) * prior.rows_at_once(columns)
        how = replace(how, lanes=lanes, prefill=lanes)
    wanted = [(upper, how), (empty, how), (empty, replace(how, greedy=True))]
    if MASKED in fields:
        rest = codes.masked_fill(fields[MASKED], UNFILLED)
        wanted = [(rest, how), (rest, replace(how, greedy=True))]
    cells = sum(int((given[0] == UNFILLED).sum()) for given, _ in wanted)
    shown, done, last = [codes], 0, codes
    for given, sampling in wanted:
        for state in sample_steps(GridRequest(prior, fields, (rows, columns), range(len(codes)), 0, sampling, given)):
            done, last = done + 1, state.codes
            if done == PROBE_STEPS and not affordable(done / cells):
                return {}
        shown.append(last)
    model = vqgan()
    with torch.no_grad():
        return {"samples": grid([model.decode_codes(row).float() for row in shown])}
