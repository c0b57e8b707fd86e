"""What the user says of a prior, because the shapes of its tensors do not tell."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from ...models.conditions import ClassConfig, ConditionConfig, CoordinatesConfig, UnconditionalConfig
from .. import config as configs
from ..checkpoint import loading

CONDITIONS = ("none", "class:COUNT", "coordinates:COUNT")


class Hints(NamedTuple):
    """What the shapes of a prior do not tell."""

    heads: int | None = None
    condition: str | None = None  # one of CONDITIONS
    window: tuple[int, int] | None = None  # rows and columns of codes
    start: int | None = None  # the token that begins a sequence without a condition
    tokenizer: Path | None = None  # a run or an export, whose codes the prior continues, where the source has none

    def completed(self, said: "Hints") -> "Hints":
        """These, with what they leave open from others."""
        return said._replace(**{name: value for name, value in self._asdict().items() if value is not None})

    def condition_config(self, source: str) -> ConditionConfig:
        """The condition that is named.

        Raises:
            ValueError: none is.
        """
        match = re.fullmatch(r"none|(class|coordinates):([1-9]\d{0,8})", self.condition or "")
        if match is None:
            raise ValueError(
                f"{source} does not say what its prior is conditioned on; give its project's YAML with --config, or "
                f"--condition with one of {', '.join(CONDITIONS)}"
            )
        if match[1] is None:
            return UnconditionalConfig()
        count = int(match[2])
        return ClassConfig(classes=count) if match[1] == "class" else CoordinatesConfig(vocab_size=count)

    def tokenizer_metadata(self, source: str) -> dict[str, Any]:
        """The metadata of the tokenizer that is named.

        Raises:
            ValueError: none is, or it is none.
        """
        if self.tokenizer is None:
            raise ValueError(
                f"{source} does not say which tokenizer its codes are of; import that one first and name its folder "
                "with --tokenizer"
            )
        return loading.tokenizer_ref(self.tokenizer).metadata


def read_project(path: Path) -> Hints:
    """What the YAML of a taming-transformers project says of its prior.

    Raises:
        ValueError: it cannot be read, or describes no Net2NetTransformer.
    """
    whole = configs.read_plain(path)
    params = _at(whole, "model", "params")
    if not isinstance(_at(params, "transformer_config", "params"), dict):
        raise ValueError(f"{path} has no model.params.transformer_config.params, so it describes no prior")
    heads = _at(params, "transformer_config", "params", "n_head")
    stage, said = _at(params, "cond_stage_config"), _at(params, "cond_stage_config", "params")
    target = str(stage.get("target", "") if isinstance(stage, dict) else stage)
    condition, start = None, 0
    if target.endswith(("SOSProvider", "__is_unconditional__")):
        condition, start = "none", _at(said, "sos_token") or 0
    elif target.endswith("Labelator"):
        condition = f"class:{_at(said, 'n_classes')}"
    elif target.endswith("CoordStage"):
        condition = f"coordinates:{_at(said, 'n_embed')}"
    if type(start) is not int or start < 0 or not (heads is None or (type(heads) is int and heads > 0)):
        raise ValueError(f"{path}: n_head and sos_token must be whole numbers, got {heads!r} and {start!r}")
    return Hints(heads, condition, None, start)


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
