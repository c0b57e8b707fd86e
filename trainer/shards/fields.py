"""What a sample may hold, and the extensions under which shards store it."""

from collections.abc import Mapping

PICTURE_FIELDS = ("picture", "map", "depth")
CODE_FIELDS = ("codes", "map_codes", "depth_codes", "low")  # grids, and a small picture of some pixels a code
ARRAY_FIELDS = ("text", "object_classes", "object_boxes")  # of one shape in all samples, whatever part is cut
LOCATION_FIELDS = ("box", "source_size", "flip")  # where the part was cut; every batch has them unasked
EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "picture": ("jpg", "jpeg", "png", "webp"),
    "map": ("map.png", "map.tif"),
    "depth": ("depth.png", "depth.tif", "depth.npy"),
    "cls": ("cls",),
    "codes": ("codes.npy",),
    "map_codes": ("map_codes.npy",),
    "depth_codes": ("depth_codes.npy",),
    "low": ("low.png",),
    "text": ("text.npy",),
    "object_classes": ("object_classes.npy",),
    "object_boxes": ("object_boxes.npy",),
}
