"""Images that a prior in training samples for validation, and how far they are from the images that it learns from.

They are sampled under the conditions of some validation windows, and compared with the images of those windows' own
codes: what the tokenizer loses is in both sets, so the distance is the prior's alone.

Shapes: B windows, (h, w) the prior's window, H x W pixels of it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...models.bounds import Seed, Width, check_ranges
from ...models.pixel_range import to_levels
from ...models.priors.base import Prior
from ...models.sampling import GridRequest, SamplingConfig, sample
from ..checkpoint.loading import LoadedTokenizer
from ..distributed import ranks
from ..distributed.watchdog import heartbeat
from ..frozen_networks.feature_networks import FeatureNetworkConfig, load_features
from ..frozen_networks.image_sets import ComparedSets
from ..keyed_random import mix, text_key

FIGURE = "fid_to_rebuilt"

Row = dict[str, Tensor]  # a window's codes and what its condition reads, on the host


@dataclass(frozen=True)
class ValSamplesConfig:
    """How many images validation samples, how, and in whose features they are compared."""

    features: FeatureNetworkConfig = field(default_factory=FeatureNetworkConfig)
    samples: Width = 64  # windows of validation, the same ones each time
    batch: Width = 16  # of them sampled at once; part of the arithmetic
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2, for a covariance, got {self.samples}")


class ChosenWindows:
    """The windows under whose conditions images are sampled: chosen by their keys, so the same on any number of ranks.

    Args:
        most: how many there are.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[int, Row] = {}
        self._seen: Counter[str] = Counter()

    def add(self, keys: Sequence[str], fields: Mapping[str, Tensor]) -> None:
        """Take in a batch of this rank, all windows of a sample in their order."""
        for row, key in enumerate(keys):
            number = mix(text_key(key), self._seen[key]) >> 1
            self._seen[key] += 1
            self._rows[number] = {name: value[row].cpu() for name, value in fields.items()}
            if len(self._rows) > self._most:
                del self._rows[max(self._rows)]

    def dealt(self, batch: int) -> Iterator[tuple[list[int], Row]]:
        """This rank's share of the chosen windows: their numbers, and the fields of B of them on this rank's device.

        Batches are dealt whole and are the same on any number of ranks. Every rank must iterate to the end.
        """
        every = set().union(*ranks.all_gather_object(set(self._rows)))
        chosen = sorted(every)[: self._most]
        parts = ranks.all_gather_object({number: self._rows[number] for number in chosen if number in self._rows})
        rows = {number: row for part in parts for number, row in part.items()}
        for first in range(ranks.rank() * batch, len(chosen), ranks.world() * batch):
            numbers = chosen[first : first + batch]
            names = rows[numbers[0]]
            yield (
                numbers,
                {name: torch.stack([rows[number][name] for number in numbers]).to(ranks.device()) for name in names},
            )


class ValSamples:
    """Samples images and compares them. Every rank makes one.

    Args:
        tokenizer: of the prior's codes.
        side: of the images, in pixels.

    Raises:
        AgreedError: the feature network is not to be had; on every rank.
    """

    def __init__(self, config: ValSamplesConfig, tokenizer: LoadedTokenizer, side: int) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._network = load_features(config.features, side)

    def windows(self) -> ChosenWindows:
        """Into which an evaluation puts what it comes by."""
        return ChosenWindows(self.config.samples)

    def figures(self, prior: Prior, windows: ChosenWindows) -> dict[str, float]:
        """The Frechet distance of the sampled images to those of the windows' own codes, equal on all ranks.

        Every rank must call this, with the same weights.

        Args:
            prior: whole, in evaluation mode, on this rank's device.

        Raises:
            ValueError: there are fewer than two windows, or features are no finite numbers.
        """
        sets = ComparedSets(self._network)
        for numbers, fields in windows.dealt(self.config.batch):
            made = sampled_windows(prior, fields, numbers, self.config.seed, self.config.sampling)
            sets.add(self._levels(fields["codes"]), self._levels(made), [str(number) for number in numbers])
            heartbeat()
        return sets.figures(FIGURE)

    def _levels(self, codes: Tensor) -> Tensor:
        """(B, 3, H, W) uint8."""
        return to_levels(self._tokenizer.decode(codes)).byte()


def sampled_windows(
    prior: Prior, fields: Mapping[str, Tensor], numbers: Sequence[int], seed: int, config: SamplingConfig
) -> Tensor:
    """(B, h, w) codes of whole windows, sampled together.

    Args:
        prior: in evaluation mode.
        fields: what its condition reads, and what else there is, B rows each.
        numbers: to which, with the seed, the randomness of each belongs.
        config: lanes are set to the batch.
    """
    lanes = len(numbers) * prior.rows_at_once(prior.window[1])
    given = {name: fields[name] for name in prior.condition.fields}
    how = replace(config, lanes=lanes, prefill=lanes)
    places = [number % len(numbers) for number in numbers]  # large numbers, as of keys, would share no forward
    return sample(GridRequest(prior, given, prior.window, numbers, seed, how, lane_ids=places)).codes
