"""What a sample may hold, and the extensions under which shards store it."""

from collections.abc import Mapping

PICTURE_FIELDS = ("picture", "map", "depth")
CODE_FIELDS = ("codes", "map_codes")
EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "picture": ("jpg", "jpeg", "png", "webp"),
    "map": ("map.png", "map.tif"),
    "depth": ("depth.png", "depth.tif", "depth.npy"),
    "cls": ("cls",),
    "codes": ("codes.npy",),
    "map_codes": ("map_codes.npy",),
}
