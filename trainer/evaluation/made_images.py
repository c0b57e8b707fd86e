"""Images in a folder, as ``smalti sample`` leaves them: their crops beside those of real images, and their seams.

So images of any size are judged by a feature network that sees small ones. Crops of one image depend on each other, so
a distance of crops compares with other distances of as many images and crops alone.

Shapes: B crops of S x S pixels, images of H x W.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...models.pixel_range import from_levels
from ...models.vqgan.seams import Seams
from ..data.crops import CropConfig
from ..distributed import ranks
from ..frozen_networks.feature_networks import FeatureNetwork
from ..frozen_networks.image_sets import ComparedSets, distances
from ..images.decode import open_image
from ..images.modes import rgb
from ..sampling.image_files import IMAGES, read_metadata
from ..sampling.job import SAMPLED
from ..training.evaluation import MetricSums
from .data import EvaluationData, protocol_of_samples
from .references import (
    ROUNDING,
    ReferenceFiles,
    checked_reference,
    few_on_either_side,
    reference_protocol,
    save_reference,
)
from .results import Evaluation

BAND = 256  # rows that are looked at for seams at once
SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".bmp")


class MadeImages(NamedTuple):
    """The images of a folder, and where borders may be seen in them."""

    files: tuple[Path, ...]
    seams: int | None = None  # pixels from one border to the next, of tiles, windows or codes; None: not looked at


def find_made_images(folder: Path) -> tuple[Path, ...]:
    """The images right in a folder by their names, without contact sheets and previews of unfinished ones.

    Raises:
        ValueError: two have one name.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    found: dict[str, Path] = {}
    for path in files:
        if {IMAGES, SAMPLED} & read_metadata(path).keys():
            continue
        if path.stem in found:
            raise ValueError(f"{found[path.stem]} and {path} have one name, and each image must count once")
        found[path.stem] = path
    return tuple(found.values())


def crops(image: Tensor, side: int) -> Tensor:
    """(B, 3, S, S) that cover (3, H, W); the last of each row and column is flush with the border.

    Raises:
        TooSmallError: the image is smaller than a crop.
    """
    boxes = CropConfig(size=side, max_upscale=1.0).grid(*image.shape[1:])
    return torch.stack([image[:, box.top : box.bottom, box.left : box.right] for box in boxes])


class CropSums:
    """Sums over this rank's images."""

    def __init__(self, network: FeatureNetwork | None, side: int, batch: int) -> None:
        self.side, self.batch = side, batch
        self.network = network
        self.sets = None if network is None else ComparedSets(network)
        self.means = MetricSums()
        self.images = self.crops = 0

    def add_made(self, path: Path, seams: int | None) -> None:
        """Take in an image of a file.

        Raises:
            OSError, ValueError: it cannot be read, or is smaller than a crop or than the distance of two borders.
        """
        try:
            with open_image(path) as opened:
                image = torch.from_numpy(np.array(rgb(opened))).permute(2, 0, 1)
            if seams is not None:
                self.means.add("seam_ratio", torch.tensor([_seam_ratio(image, seams)], dtype=torch.float64))
            parts = crops(image, self.side)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
        self.images += 1
        self.crops += len(parts)
        for part in torch.split(parts, self.batch):
            if self.sets is not None and self.network is not None:
                self.sets.made.add(self.network.features(part.to(ranks.device()), [path.name] * len(part)))

    def add_real(self, real: Any, keys: list[str]) -> None:
        """Take in (B, 3, S, S) uint8 crops of real images."""
        if self.sets is not None and self.network is not None and isinstance(real, Tensor):
            self.sets.real.add(self.network.features(real.to(ranks.device()), keys))


def evaluate_made_images(
    made: MadeImages,
    data: EvaluationData,
    side: int,
    network: FeatureNetwork | None,
    files: ReferenceFiles,
    say: Callable[[str], None],
) -> Evaluation:
    """The crops that cover the images of a folder beside those that cover the real ones. Every rank must call this.

    Args:
        data: real images, in crops that cover them.
        side: of the crops, in pixels.
        network: None: of seams alone.

    Raises:
        AgreedError: a reference was made otherwise, a file cannot be written, an image cannot be read or is too small,
            no real image can be used, too many cannot, or features are not finite; on every rank.
    """
    sums = CropSums(network, side, data.config.batch)
    protocol: dict[str, Any] = {"task": "images of a folder, by crops", **data.protocol(), "batch": data.config.batch}
    protocol |= {"rounding": ROUNDING, "torch": torch.__version__} | ({} if network is None else network.protocol())
    reference = None if network is None else ranks.agreed(lambda: checked_reference(files, protocol, network))

    def go() -> int:
        for path in _mine(made.files):
            sums.add_made(path, made.seams)
            say(f"{path}: seen")
        keys: set[str] = set()
        for batch in data.batches(say) if network is not None else ():
            sums.add_real(batch["image"], [str(key) for key in batch["key"]])
            keys.update(map(str, batch["key"]))
        return len(keys)

    samples = sum(ranks.all_gather_object(ranks.agreed(go)))
    images, parts = (sum(ranks.all_gather_object(number)) for number in (sums.images, sums.crops))
    figures: dict[str, float] = {}
    warnings: list[str] = []
    if network is not None and sums.sets is not None:
        if min(samples, parts) < 1:
            raise ranks.AgreedError("no real image can be used; the log names what is wrong with each")
        real, sampled = sums.sets.real.moments(), sums.sets.made.moments()
        figures |= distances(sampled, real if reference is None else reference.moments, "crop_fid")
        warnings += few_on_either_side(min(real.pooled.samples, parts), reference, network, "crop_fid")
        protocol |= reference_protocol(files.reference, reference) | {"real_crops": real.pooled.samples}
        if files.save is not None:
            save_reference(files.save, real, protocol)
    if made.seams is not None:
        protocol["seams"] = f"every {made.seams} pixels, mean over images"
    counted, left_out = protocol_of_samples(data, samples)
    protocol |= counted | {"made_images": images, "made_crops": parts}
    return Evaluation(figures | sums.means.means(), protocol, warnings + left_out)


def _seam_ratio(image: Tensor, every: int) -> float:
    """Of (3, H, W) uint8, band by band."""
    height, width = image.shape[1:]
    seams = Seams(height, width, range(every, height, every), range(every, width, every))
    for band in torch.split(image, BAND, dim=1):
        seams.add(from_levels(band)[None])
    return seams.seam_ratio()


def _mine(files: tuple[Path, ...]) -> Iterator[Path]:
    """This rank's files."""
    yield from files[ranks.rank() :: ranks.world()]
