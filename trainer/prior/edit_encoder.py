"""Training batches of an editor: masks drawn on label maps, codes of masked images, and what a guide looks at."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..data.masks import MaskConfig, draw_masks
from ..editing.scene import Guide, Scene, SceneEncoder


class EditEncoder:
    """Makes what an editor reads from what a stream of images gives. Nothing of it is trained.

    Args:
        encode: by the frozen tokenizers.
        masks: how masks are drawn.
        guide: of a guided editor.
        num_labels: of the maps' tokenizer; None where maps have none.
    """

    fields = ("image", "segmentation")

    def __init__(self, encode: SceneEncoder, masks: MaskConfig, guide: Guide | None, num_labels: int | None) -> None:
        self.num_labels = num_labels
        self._encode, self._masks, self._guide = encode, masks, guide

    def __call__(self, fields: Mapping[str, Tensor], seeds: Sequence[int]) -> dict[str, Tensor]:
        """The fields of an editor's batch, on this rank's device; the mask of sample b depends on ``seeds[b]``.

        A guide sees the true image, small, in training.
        """
        masked = draw_masks(fields["segmentation"], seeds, self._masks)
        scene = Scene(fields["image"], fields["segmentation"], masked)
        guided = {} if self._guide is None else self._guide.looks(self._guide.small(scene))
        return self._encode(scene) | guided
