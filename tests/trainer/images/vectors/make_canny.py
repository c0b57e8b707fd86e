"""Makes ``canny.npz``, what OpenCV 4.11 and scikit-image 0.26 give for ``cases()``: in an environment of its own, with
opencv-python-headless 4.11 (x86, with IPP), scikit-image 0.26 and numpy,

    python tests/trainer/images/vectors/make_canny.py tests/trainer/images/vectors/canny.npz

The inputs are drawn from numbered generators, so that the file holds results alone.
"""

import sys
from collections.abc import Iterator

import numpy as np

SIZES = ((64, 80), (47, 33), (1, 40), (40, 1), (1, 1), (2, 3), (90, 61))
THRESHOLDS = ((100.0, 200.0), (31.6, 54.3), (0.0, 0.0), (250.5, 120.0), (700.0, 900.0))


def cases() -> Iterator[tuple[str, np.ndarray, float, float, bool]]:
    """(name, uint8 image, low, high, whether by sqrt(dx^2 + dy^2)): noise, smooth shapes, black and white, stripes."""
    for number, (height, width) in enumerate(SIZES):
        for kind in range(4):
            random = np.random.default_rng(100 * number + kind)
            image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            rows, columns = np.mgrid[:height, :width]
            waves = np.sin(rows / 5)[..., None] + np.cos(columns / np.array([3, 7, 11])[:, None, None]).transpose(
                1, 2, 0
            )
            if kind == 1:
                image = np.clip(127 + 60 * waves + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
            elif kind == 2:
                image = np.where(waves > 0.3, 255, 0).astype(np.uint8)
            elif kind == 3:
                image = np.repeat(((rows + 2 * columns) // 5 % 2 * 200)[..., None], 3, 2).astype(np.uint8)
            for place, (low, high) in enumerate(THRESHOLDS):
                euclidean = (number + kind + place) % 2 == 1
                gray = (kind + place) % 3 == 0
                cut = np.ascontiguousarray(image[..., 0]) if gray else image
                yield f"{number}-{kind}-{place}", cut, low, high, euclidean


def main() -> None:
    import cv2
    import skimage

    made = {"version": np.array(cv2.__version__), "skimage": np.array(skimage.__version__)}
    for name, image, low, high, euclidean in cases():
        made[name] = np.packbits(cv2.Canny(image, low, high, L2gradient=euclidean) > 0)
        if image.ndim == 3 and min(image.shape[:2]) > 2:
            gray = skimage.color.rgb2gray(image / 127.5 - 1)
            made[f"{name}-published"] = np.packbits(skimage.feature.canny(gray, sigma=2))
    np.savez_compressed(sys.argv[1], **made)


if __name__ == "__main__":
    main()
