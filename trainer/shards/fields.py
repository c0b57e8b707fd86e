"""What a sample may hold, and the extensions under which shards store it."""

from collections.abc import Mapping

IMAGE_FIELDS = ("image", "segmentation", "depth")
CODE_FIELDS = ("codes", "segmentation_codes", "depth_codes", "low")  # grids, and a small image of some pixels a code
ARRAY_FIELDS = ("text", "object_classes", "object_boxes")  # of one shape in all samples, whatever part is cut
LOCATION_FIELDS = ("box", "source_size", "flip")  # where the part was cut; every batch has them unasked
# Under which key the provenance of code shards says what a field's codes were made by.
PROVENANCE_KEYS: Mapping[str, str] = {"segmentation": "maps", "depth": "depths"}
# The first is what is written. map.png and map_codes.npy are read as well: shards had them before.
EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "image": ("jpg", "jpeg", "png", "webp"),
    "segmentation": ("segmentation.png", "segmentation.tif", "map.png", "map.tif"),
    "depth": ("depth.png", "depth.tif", "depth.npy"),
    "cls": ("cls",),
    "codes": ("codes.npy",),
    "segmentation_codes": ("segmentation_codes.npy", "map_codes.npy"),
    "depth_codes": ("depth_codes.npy",),
    "low": ("low.png",),
    "text": ("text.npy",),
    "object_classes": ("object_classes.npy",),
    "object_boxes": ("object_boxes.npy",),
}
