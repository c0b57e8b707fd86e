"""Edits of one photo, one after the other: what is kept becomes the photo that the next edit starts from."""

from collections.abc import Callable
from typing import NamedTuple

from ...models.sampling import SamplingState
from ..images.decode import Pixels
from .job import Candidate, EditJob
from .photo import Photo, PhotoEdit
from .strokes import Strokes


class Version(NamedTuple):
    """A photo and its label map, (H, W) pixels each."""

    photo: Photo
    labels: Pixels


class EditSession:
    """What a user did with a photo.

    Args:
        name: of the photo, for the files that are made of it.
        photo, labels: as they were given.
    """

    def __init__(self, name: str, photo: Photo, labels: Pixels) -> None:
        self.name = name
        self.versions = [Version(photo, labels)]
        self.candidates: list[Candidate] = []  # of the last edit, the likeliest first
        self._edited = labels

    @property
    def current(self) -> Version:
        """The version that is edited."""
        return self.versions[-1]

    def edit(self, strokes: Strokes) -> PhotoEdit:
        """The edit of the current version that some strokes ask for."""
        before = self.current
        return PhotoEdit(
            before.photo, strokes.labels, before.labels, (strokes.labels != before.labels) | strokes.again, []
        )

    def sample(self, job: EditJob, strokes: Strokes, seed: int, progress: Callable[[SamplingState], None]) -> None:
        """Make candidates for what some strokes ask for, in the place of those that are there.

        Raises:
            ValueError: the strokes change nothing.
        """
        edit = self.edit(strokes)
        if not edit.masked.any():
            raise ValueError("nothing is to be made anew yet: draw on the map first")
        self.candidates = job.run(edit, seed, progress)
        self._edited = edit.labels

    def keep(self, place: int) -> None:
        """Make a candidate, by its place among them, the current version.

        Raises:
            ValueError: there is no such candidate.
        """
        if not 0 <= place < len(self.candidates):
            raise ValueError("no candidate is chosen: make some, and choose one")
        photo = self.current.photo._replace(colors=self.candidates[place].colors)
        self.versions.append(Version(photo, self._edited))
        self.candidates = []

    def undo(self) -> None:
        """Go back to the version before the current one.

        Raises:
            ValueError: this is the photo as it was given.
        """
        if len(self.versions) == 1:
            raise ValueError("there is nothing to undo: this is the photo as it was given")
        self.versions.pop()
        self.candidates = []
