"""Published weights: at a path of the config, else in torch's cache, else downloaded by rank 0, else a clear error."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..distributed import ranks
from ..files import sha256

PREFETCH = "smalti plan --prefetch"


@dataclass(frozen=True)
class PublishedWeights:
    """A published file, by default of torchvision's, whose name ends in the first digits of its SHA-256."""

    name: str  # without the digits
    digest: str
    megabytes: int
    folder: str = "https://download.pytorch.org/models"  # where it is published
    publisher: str = "torchvision"

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.name}-{self.digest}.pth"

    @property
    def address(self) -> str:
        """Where the file is published."""
        return f"{self.folder}/{self.file}"

    @property
    def cached(self) -> Path:
        """Where torch keeps it once downloaded: ``$TORCH_HOME/hub/checkpoints``."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file

    def prefetch(self) -> Path:
        """Downloads the file into torch's cache where it is not there yet; for machines with a network.

        Raises:
            OSError: there is no network, or no room.
            RuntimeError: what came is not the file.
        """
        if not self.cached.exists():
            self.cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(self.address, str(self.cached), hash_prefix=self.digest, progress=False)
        return self.cached

    def load(self, path: Path | None, download: bool) -> dict[str, Tensor]:
        """The weights, on the CPU. Every rank must call this.

        Rank 0 alone downloads, and only where it may; the others wait for it, then every rank reads the file.

        Args:
            path: of the file; None for torch's cache.
            download: whether a file that is not in the cache may be fetched.

        Raises:
            FileNotFoundError: the file is in no place and was not downloaded.
            ValueError: it is another file, or a damaged one.
        """
        if download and path is None and ranks.rank() == 0 and not self.cached.exists():
            try:
                self.prefetch()
            except (OSError, RuntimeError) as error:
                # Not raised here: the other ranks would wait forever. All of them find the file missing below.
                warnings.warn(f"could not download {self.address}: {error}", stacklevel=2)
        ranks.barrier()
        return self.read(self.find(path))

    def find(self, path: Path | None) -> Path:
        """The path where one is given, else the place in torch's cache.

        Raises:
            FileNotFoundError: there is no file.
        """
        place = self.cached if path is None else path
        if not place.exists():
            raise FileNotFoundError(
                f"the weights {self.file} ({self.megabytes} MB) are neither at the config's path ({path}) nor in "
                f"torch's cache ({self.cached}); run `{PREFETCH}` on a machine with a network and the same TORCH_HOME, "
                f"or copy {self.address} to one of the two places"
            )
        return place

    def read(self, path: Path) -> dict[str, Tensor]:
        """The weights of this file, on the CPU.

        Raises:
            ValueError: it is another file, or a damaged one.
        """
        found = sha256(path)
        if not found.startswith(self.digest):
            raise ValueError(
                f"{path} is not {self.publisher}'s {self.file}: its SHA-256 begins with {found[: len(self.digest)]}, "
                f"not {self.digest}; delete it and run `{PREFETCH}`"
            )
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return weights


VGG16 = PublishedWeights("vgg16", "397923af", 553)  # trunk of LPIPS
RESNET50 = PublishedWeights("resnet50", "11ad3fa6", 102)  # classifier of the logit loss
INCEPTION = PublishedWeights(  # of FID: the network of the published numbers, ported
    "weights-inception-2015-12-05",
    "6726825d",
    96,
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0",
    "torch-fidelity",
)
