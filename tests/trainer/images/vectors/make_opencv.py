"""Makes ``opencv_4_11.npz``, what OpenCV 4.11 gives for ``cases()``: in an environment of its own, which has
opencv-python-headless 4.11 (x86, with IPP) and numpy,

    python tests/trainer/images/vectors/make_opencv.py tests/trainer/images/vectors/opencv_4_11.npz

The inputs are drawn from numbered generators, so that the file holds results alone.
"""

import sys
from collections.abc import Iterator

import numpy as np

SIZES = (  # (height, width) of the source, (height, width) of the result
    ((40, 60), (32, 48)),
    ((60, 41), (47, 32)),
    ((64, 96), (32, 48)),  # exactly half: OpenCV takes means there
    ((65, 97), (32, 48)),
    ((64, 97), (32, 48)),
    ((96, 64), (32, 21)),
    ((31, 33), (31, 33)),
    ((20, 27), (32, 43)),
    ((7, 5), (45, 32)),
    ((1, 50), (1, 31)),
    ((50, 1), (33, 1)),
    ((1, 9), (32, 288)),
    ((3, 3), (32, 32)),
    ((1, 1), (8, 8)),
    ((100, 133), (16, 21)),
    ((128, 192), (32, 48)),
    ((33, 47), (66, 94)),
    ((51, 77), (37, 56)),
    ((77, 51), (56, 37)),
    ((149, 111), (43, 32)),
)
LABELS = ("uint8", "uint16", "int16", "int32")


def cases() -> Iterator[tuple[str, dict[str, np.ndarray], tuple[int, int]]]:
    """(name, inputs by kind, (height, width) of the result): noise, edges of black and white, and slopes."""
    for number, (source, result) in enumerate(SIZES):
        random = np.random.default_rng(number)
        image = random.integers(0, 256, (*source, 3), dtype=np.uint8)
        if number % 3 == 1:
            image = np.where(image > 127, 255, 0).astype(np.uint8)
        elif number % 3 == 2:
            slopes = np.add.outer(np.arange(source[0]) * 3, np.arange(source[1]) * 2)[..., None] + (0, 40, 90)
            image = (slopes % 256).astype(np.uint8)
        labels = {kind: random.integers(0, 182 if kind == "uint8" else 9000, source).astype(kind) for kind in LABELS}
        depth = random.random(source, dtype=np.float32) * 2 - 1
        yield f"{number:02d}", {"image": image, "depth": depth, **labels}, result


def main() -> None:
    import cv2

    made = {"version": np.array(cv2.__version__)}
    for name, inputs, (height, width) in cases():
        for kind, values in inputs.items():
            ways = {"image": ("LINEAR", "CUBIC"), "depth": ("LINEAR",)}.get(kind, ("NEAREST",))
            for way in ways:
                made[f"{name}-{kind}-{way}"] = cv2.resize(
                    values, (width, height), interpolation=getattr(cv2, f"INTER_{way}")
                )
    np.savez_compressed(sys.argv[1], **made)


if __name__ == "__main__":
    main()
