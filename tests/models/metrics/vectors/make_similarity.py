"""Makes ``similarity.json``, what scikit-image and torchmetrics give for ``pairs()``: in an environment of its own,
which has numpy, torch and both,

    python tests/models/metrics/vectors/make_similarity.py tests/models/metrics/vectors/similarity.json

The inputs are drawn from numbered generators, so that the file holds results alone. Structural similarity is asked for
in the convention of its paper: a Gaussian window of sigma 1.5 over 11 x 11 pixels, biased covariances, range 255, no
padding. torchmetrics pads by reflection, and the places whose windows reach into that are cut from its map.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

SIZES = ((16, 16), (33, 47), (64, 40))


def pairs() -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """Two (H, W, 3) uint8 images: slopes with grain, and the same with noise and another brightness."""
    for number, (height, width) in enumerate(SIZES):
        random = np.random.default_rng(number)
        slopes = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None] % 200 + np.array([0, 20, 40])
        real = np.clip(slopes + random.integers(-8, 9, (height, width, 3)), 0, 255)
        rebuilt = np.clip(real + random.integers(-30, 31, real.shape) + 5 * number, 0, 255)
        yield real.astype(np.uint8), rebuilt.astype(np.uint8)


def main() -> None:
    import skimage
    import torch
    import torchmetrics
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from torchmetrics.functional.image import peak_signal_noise_ratio as torch_psnr
    from torchmetrics.functional.image import structural_similarity_index_measure as torch_ssim

    made: dict[str, object] = {"scikit-image": skimage.__version__, "torchmetrics": torchmetrics.__version__}
    found = []
    for real, rebuilt in pairs():
        one, other = (torch.from_numpy(each).permute(2, 0, 1)[None].double() for each in (real, rebuilt))
        _, whole = torch_ssim(one, other, sigma=1.5, kernel_size=11, data_range=255.0, return_full_image=True)
        found.append({
            "ssim of scikit-image": structural_similarity(
                real, rebuilt, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                data_range=255,
            ),
            "psnr of scikit-image": peak_signal_noise_ratio(real, rebuilt, data_range=255),
            "ssim of torchmetrics": float(whole[:, :, 5:-5, 5:-5].mean()),
            "psnr of torchmetrics": float(torch_psnr(one, other, data_range=255.0)),
        })  # fmt: skip
    Path(sys.argv[1]).write_text(json.dumps({**made, "pairs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
