"""What a run's numbers depend on besides its config: compared with the checkpoint when it goes on."""

from collections.abc import Mapping

from ..data.batch_stream import BatchStream

# What checkpoints called an input before.
_OLD_NAMES = {
    "val": "held_out",
    "tokenizer of image": "tokenizer of picture",
    "tokenizer of segmentation": "tokenizer of map",
}


class RunData:
    """The training stream's position, the validation data and the tokenizers, wherever they lie.

    Args:
        training, val: the streams of a run.
        tokenizers: digests, by what they encode.
    """

    def __init__(self, training: BatchStream, val: BatchStream, tokenizers: Mapping[str, str]) -> None:
        self._training = training
        self._inputs = {"val": val.fingerprint} | {
            f"tokenizer of {name}": digest for name, digest in tokenizers.items()
        }

    def state_dict(self, step: int) -> dict[str, object]:
        """What must be stored to go on after ``step`` optimizer steps; equal on all ranks."""
        return self._training.state_dict(step) | {"inputs": self._inputs}

    def validate_state(self, state: Mapping[str, object]) -> None:
        """Make sure that a stored state belongs to these data.

        Raises:
            ValueError: naming what has changed.
        """
        stored = dict(state)
        before = stored.pop("inputs", None)
        self._training.validate_state(stored)
        if isinstance(before, Mapping):
            changed = [
                name
                for name, now in self._inputs.items()
                if before.get(name, before.get(_OLD_NAMES.get(name, name))) != now
            ]
            if changed:
                raise ValueError(
                    f"{' and '.join(changed)} changed since the run was saved; name what it was trained with, or start "
                    "a new run in another folder with initial_weights: the old run's folder"
                )
