"""From a run or an export of this project to the folder of a format."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ...models.conditions import ConditionConfig
from ...models.priors import PriorConfig
from ...models.vqgan.autoencoder import VQGAN
from ..checkpoint import discriminator_files, loading, model_files, shards, storage
from ..config import from_mapping
from ..files import copy_whole, new_folder, only_command_in, write_text
from . import codebook_subset, folders, model_card
from .folders import FormatError
from .formats import diffusers_vqgan, graphs, taming_export, transformers_gpt2

Format = Literal["smalti", "diffusers", "transformers", "taming", "torch-export", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)
NEAREST = "smalti; torch-export and onnx hold its computation"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


Weights = Literal["ema", "raw"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)


class Options(NamedTuple):
    """How to export."""

    weights: Weights = "ema"  # of a run: the averaged ones, or those that its optimizer writes
    dtype: str | None = None  # one of DTYPES; None leaves numbers as they are
    shard_bytes: int = folders.SHARD_BYTES
    tokenizer: Path | None = None  # for formats that hold a prior together with its stages
    condition_tokenizer: Path | None = None
    codes: tuple[int, ...] | None = None  # of a VQGAN: those that are kept; None keeps all


class Source(NamedTuple):
    """What is exported."""

    folder: Path  # with the weights
    metadata: dict[str, Any]
    weights: Mapping[str, Tensor]

    @property
    def config(self) -> Any:
        """The config of the network."""
        if self.metadata["task"] == "vqgan":
            return loading.tokenizer_config(loading.TokenizerRef(self.folder, self.metadata))
        kind: Any = PriorConfig
        return from_mapping(kind, self.metadata["model"], f"the metadata in {self.folder}", saved=True)

    @property
    def condition(self) -> Any:
        """The config of a prior's condition."""
        return from_mapping(ConditionConfig, self.metadata["condition"], f"the metadata in {self.folder}", saved=True)

    def network(self) -> nn.Module:
        """The network, in evaluation mode, with these weights."""
        sizes = () if self.metadata["task"] == "vqgan" else (self.metadata["codes"], self.condition)
        made: nn.Module = self.config.build(*sizes)
        made.load_state_dict(self.weights)
        return made.eval().requires_grad_(False)


def opened(path: Path, task: str | None = None, wanted: Weights = "ema") -> Source:
    """The weights of a run or an export.

    Raises:
        ValueError: there are none, of another task, damaged, or raw ones of what is no run.
    """

    def source(folder: Path) -> Source:
        metadata = model_files.read_metadata(folder, task)
        if wanted == "ema":
            return Source(folder, metadata, model_files.read(folder, metadata))
        if not (folder / storage.MANIFEST).exists():
            raise ValueError(
                f"{path} is an export, which holds one set of weights; raw ones are in the folder of a run"
            )
        from ..checkpoint.raw_weights import RawWeights  # with it comes DeepSpeed, which takes seconds to import

        weights = RawWeights(folder, metadata)
        return Source(folder, metadata | {"weights": "raw", "digest": model_files.digest(weights)}, weights)

    return loading.of_newest(path, source)


def export(path: Path, destination: Path, wanted: Format, options: Options) -> list[str]:
    """Write a network in a format; what was written, in a few lines.

    Raises:
        ValueError: there are no weights, the destination is taken, another command writes there, the format cannot
            represent them exactly, or a number is out of its range.
    """
    if options.shard_bytes < 1:
        raise ValueError(f"a file of weights must have room for at least 1 byte, got {options.shard_bytes}")
    as_it_is = wanted == "smalti" and options == Options()
    if as_it_is and not list(path.glob(f"*{shards.INDEX}")):
        with only_command_in(destination):
            metadata = loading.export(path, destination)
            _beside(loading.resolve_weights(path), path, destination, metadata)
        return [f"{destination}: {metadata['task']}, weights {metadata['digest'][:12]}"]
    source = opened(path, wanted=options.weights)
    if options.codes is not None:
        weights, smaller = codebook_subset.cut_down(source.weights, source.metadata, options.codes)
        source = Source(source.folder, smaller | {"digest": model_files.digest(weights)}, weights)
    with new_folder(destination) as folder:
        try:
            notes = _WRITERS[wanted](folder, path, source, options) or []
        except FormatError as error:
            raise ValueError(
                f"{path} cannot be exported as {wanted}: {error}; the nearest format that holds it is {NEAREST}"
            ) from None
    return [f"{destination}: {source.metadata['task']} as {wanted}, weights {source.metadata['digest'][:12]}", *notes]


def _cast(weights: Mapping[str, Tensor], options: Options) -> dict[str, Tensor]:
    """The weights with every floating number in the type that is asked for."""
    if options.dtype is None:
        return dict(weights)
    dtype = DTYPES[options.dtype]
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def _smalti(folder: Path, path: Path, source: Source, options: Options) -> None:
    weights = _cast(source.weights, options)
    metadata = {name: value for name, value in source.metadata.items() if name != "digest"}
    model_files.write(folder, weights, metadata, options.shard_bytes)
    _beside(source.folder, path, folder, model_files.read_metadata(folder))


def _beside(weights: Path, path: Path, folder: Path, metadata: Mapping[str, Any]) -> None:
    """The discriminator, where there is one, and the README."""
    if "discriminator" in metadata:
        discriminator_files.read(weights, dict(metadata))
        name = discriminator_files.WEIGHTS
        copy_whole(weights / name, folder / name)
    write_text(folder / model_card.NAME, model_card.text(path, metadata, "smalti"))


def _diffusers(folder: Path, path: Path, source: Source, options: Options) -> None:
    if source.metadata["task"] != "vqgan":
        raise FormatError("diffusers has no class for a prior over codes; transformers has")
    _write_folder(folder, path, source, options, diffusers_vqgan.exported(source.config, source.weights), "diffusers")


def _transformers(folder: Path, path: Path, source: Source, options: Options) -> None:
    if source.metadata["task"] != "prior":
        raise FormatError("transformers has no class for a VQGAN; diffusers has")
    model = transformers_gpt2.exported(source.config, source.weights, source.metadata)
    _write_folder(folder, path, source, options, model, "transformers")


def _write_folder(
    folder: Path, path: Path, source: Source, options: Options, model: folders.ModelFolder, wanted: Format
) -> None:
    weights = _cast(model.weights, options)
    dtype = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
    typed = {"torch_dtype": str(dtype).removeprefix("torch.")} if wanted == "transformers" else {}
    model = model._replace(weights=weights, config=model.config | typed)
    folders.write(folder, model, options.shard_bytes)
    write_text(folder / model_card.NAME, model_card.text(path, source.metadata, wanted))


def _taming(folder: Path, path: Path, source: Source, options: Options) -> None:
    if source.metadata["task"] == "vqgan":
        state, config = taming_export.vqgan(source.config, source.weights)
    else:
        state, config = taming_export.prior(source.config, source.weights, source.metadata, _stages(source, options))
    taming_export.write(folder, _cast(state, options), config)
    write_text(folder / model_card.NAME, model_card.text(path, source.metadata, "taming"))


def _stages(source: Source, options: Options) -> dict[str, Any]:
    """The tokenizers that go with a prior."""
    wanted = {"image": (source.metadata["tokenizer"], options.tokenizer, "--tokenizer")}
    for digest in (source.metadata.get("condition_tokenizers") or {}).values():
        wanted["condition"] = (digest, options.condition_tokenizer, "--condition-tokenizer")
    stages = {}
    for name, (digest, place, option) in wanted.items():
        if place is None:
            raise ValueError(f"a checkpoint of taming holds a prior with its tokenizers; name one with {option}")
        found = opened(place, "vqgan")
        if found.metadata["digest"] != digest:
            raise ValueError(
                f"{option} {place} is {found.metadata['digest'][:12]}, and the prior has learnt {digest[:12]}"
            )
        stages[name] = (found.config, found.weights)
    return stages


def _torch_export(folder: Path, path: Path, source: Source, options: Options) -> list[str]:
    return _graphs(folder, path, source, options, "torch-export")


def _onnx(folder: Path, path: Path, source: Source, options: Options) -> list[str]:
    return _graphs(folder, path, source, options, "onnx")


def _graphs(
    folder: Path, path: Path, source: Source, options: Options, wanted: Literal["torch-export", "onnx"]
) -> list[str]:
    """The graphs of a network, and how far each is from it."""
    if options.dtype is not None:
        raise ValueError(
            f"graphs have the numbers of the weights; export them as smalti with --dtype {options.dtype} first"
        )
    said = {"smalti": {name: value for name, value in source.metadata.items() if name not in ("format", "digest")}}
    network = source.network()
    if isinstance(network, VQGAN):
        made = graphs.of_vqgan(network)
    else:
        made = graphs.of_prior(network, transformers_gpt2.condition_table(source.condition, source.weights))
    differences = graphs.write(folder, made, wanted)
    write_text(folder / folders.CONFIG, json.dumps(graphs.sizes_of(network) | said, indent=2) + "\n")
    write_text(folder / model_card.NAME, model_card.text(path, source.metadata, wanted))
    return [
        f"{name}: largest difference from the network {difference:.1e}"
        if difference is not None
        else f"{name}: not compared with the network, because the package onnxruntime is not installed"
        for name, difference in differences.items()
    ]


_WRITERS: Mapping[Format, Callable[[Path, Path, Source, Options], list[str] | None]] = {
    "smalti": _smalti,
    "diffusers": _diffusers,
    "transformers": _transformers,
    "taming": _taming,
    "torch-export": _torch_export,
    "onnx": _onnx,
}
