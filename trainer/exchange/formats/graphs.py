"""Networks as graphs that run without this project: ``torch.export`` programs and ONNX files.

A VQGAN becomes ``encoder`` (images or maps to codes) and ``decoder`` (codes to images or logits of labels), for any
batch, height and width. A prior becomes ``step``: one token more of every sequence of a batch, with the keys and values
of those before it going in and coming out. Its tokens are the K codes, then the rows of the condition's table, then the
one that stands for no condition; a sequence is the P tokens of the condition, then the codes in the prior's order.

Shapes: B sequences or images, L layers, T positions, D channels of a head, (h, w) a grid of codes.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ....models.priors.gpt import GPT
from ....models.transformer.block import Block
from ....models.transformer.rope import RopeTables, rope_tables
from ....models.vqgan.autoencoder import VQGAN
from ..folders import FormatError

GraphFormat = Literal["torch-export", "onnx"]
OPSET = 18
CACHES = ("keys", "values")


class Graph(NamedTuple):
    """A network to be exported, with arguments that show their types and what of their shapes may change."""

    name: str
    network: nn.Module
    arguments: dict[str, Tensor]
    results: tuple[str, ...]
    dynamic: dict[str, Any]
    others: dict[str, Tensor]  # arguments of other shapes, by which the graph is compared with the network


class Encoder(nn.Module):
    """Images (B, C, H, W) in [-1, 1], or maps (B, H, W) of labels, to codes (B, h, w)."""

    def __init__(self, network: VQGAN) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, h, w) int64."""
        return self.network.encode(images).indices


class Decoder(nn.Module):
    """Codes (B, h, w) to images (B, 3, H, W), or to logits of labels."""

    def __init__(self, network: VQGAN) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: Tensor) -> Tensor:
        """(B, 3, H, W) float32."""
        return self.network.decode_codes(codes)


class CachedStep(nn.Module):
    """One token more of every sequence.

    Args:
        prior: whose weights these are.
        table: (rows + 1, C), the vectors of its condition's tokens and that of no condition.
    """

    tokens: Tensor
    positions: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(self, prior: GPT, table: Tensor) -> None:
        super().__init__()
        config, prefix = prior.config, prior.condition.length
        self.capacity = len(prior.places)  # T
        self.blocks, self.ln_f, self.head = prior.blocks, prior.ln_f, prior.head
        self.register_buffer("tokens", torch.cat((prior.tok_emb.weight, table)))
        positions = torch.zeros(self.capacity, config.width)
        if config.block == "gpt2":
            positions += torch.cat((prior.pos_emb[0, :prefix], prior.pos_emb[0, prefix + prior.cells]))
        if config.annealing is not None:
            positions[prefix - 1 : -1] += prior.next_emb[0, prior.cells]
        self.register_buffer("positions", positions)
        turns = rope_tables(prior.places, config.width // config.heads) if config.block != "gpt2" else None
        self.turns = turns is not None
        self.register_buffer("cosine", torch.zeros(1) if turns is None else turns.cosine)
        self.register_buffer("sine", torch.zeros(1) if turns is None else turns.sine)

    def forward(self, token: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K) of the code that follows, and the caches with this token in them.

        Args:
            token: (B,) int64.
            position: (1,) int64, how many tokens came before; the same for the whole batch.
            keys, values: (L, B, heads, T, D); what lies at later positions is not looked at.
        """
        x = rearrange(F.embedding(token, self.tokens) + self.positions[position], "b c -> b 1 c")
        turn = RopeTables(self.cosine[position], self.sine[position]) if self.turns else None
        places = torch.arange(self.capacity, device=token.device)
        here, visible = rearrange(places == position, "t -> t 1"), rearrange(places <= position, "t -> 1 1 1 t")
        new_keys, new_values = [], []
        for layer, block in enumerate(self.blocks):
            if not isinstance(block, Block):
                raise TypeError("a prior is made of blocks")
            query, key, value = block.attn.project(block.ln1(x), turn)
            new_keys.append(torch.where(here, key, keys[layer]))
            new_values.append(torch.where(here, value, values[layer]))
            x = x + block.attn.attend(query, new_keys[-1], new_values[-1], visible)
            x = x + block.mlp(block.ln2(x))
        logits: Tensor = self.head(self.ln_f(x[:, 0]))
        return logits, torch.stack(new_keys), torch.stack(new_values)


def of_vqgan(network: VQGAN) -> list[Graph]:
    """The two graphs of an autoencoder."""
    config, factor = network.config, network.config.factor
    batch = torch.export.Dim("batch", min=1, max=4096)
    rows, columns = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("columns", min=1, max=4096)

    def images(count: int, height: int, width: int) -> Tensor:
        sides = (height * factor, width * factor)
        if config.num_labels is not None:
            return torch.randint(config.num_labels, (count, *sides))
        return torch.rand(count, config.in_channels, *sides) * 2 - 1

    def codes(count: int, height: int, width: int) -> Tensor:
        return torch.randint(config.codebook_size, (count, height, width))

    first = 1 if config.num_labels is not None else 2
    return [
        Graph(
            "encoder",
            Encoder(network),
            {"images": images(2, 3, 4)},
            ("codes",),
            {"images": {0: batch, first: factor * rows, first + 1: factor * columns}},
            {"images": images(3, 5, 2)},
        ),
        Graph(
            "decoder",
            Decoder(network),
            {"codes": codes(2, 3, 4)},
            ("images",),
            {"codes": {0: batch, 1: rows, 2: columns}},
            {"codes": codes(3, 5, 2)},
        ),
    ]


def of_prior(network: nn.Module, table: Tensor) -> list[Graph]:
    """The graph of a prior's step.

    Args:
        table: as that of ``CachedStep``.

    Raises:
        FormatError: it has no cache of positions.
    """
    if not isinstance(network, GPT):
        raise FormatError("only priors of kind gpt have a step over one cache of all positions")
    config = network.config
    if config.bidirectional_prefix:
        raise FormatError("a step reads one token after another, and this prior's condition sees itself")
    batch = torch.export.Dim("batch", min=1, max=4096)

    def arguments(count: int) -> dict[str, Tensor]:
        shape = (config.layers, count, config.heads, len(network.places), config.width // config.heads)
        caches = {name: torch.randn(shape) for name in CACHES}
        return {"token": torch.randint(network.codes, (count,)), "position": torch.tensor([2])} | caches

    dynamic = {"token": {0: batch}, "position": None, "keys": {1: batch}, "values": {1: batch}}
    step = CachedStep(network, table).eval()
    results = ("logits", "new_keys", "new_values")
    return [Graph("step", step, arguments(2), results, dynamic, arguments(3))]


def sizes_of(network: nn.Module) -> dict[str, Any]:
    """What a program that runs the graphs must know."""
    if isinstance(network, VQGAN):
        return {"factor": network.config.factor, "codes": network.config.codebook_size}
    if not isinstance(network, GPT):
        return {}
    config = network.config
    return {
        "codes": network.codes,
        "prefix": network.condition.length,
        "window": list(config.window),
        "cells": network.cells.tolist(),
        "layers": config.layers,
        "heads": config.heads,
        "head_channels": config.width // config.heads,
    }


def write(folder: Path, graphs: list[Graph], wanted: GraphFormat) -> dict[str, float | None]:
    """Export graphs into a folder.

    Returns:
        For each graph, the largest difference from the network at another shape; None where it could not be compared,
        because ONNX files are run by the package onnxruntime and that is not installed.

    Raises:
        ValueError: the packages that write ONNX files are not installed.
    """
    differences = {}
    for graph in graphs:
        with torch.no_grad():
            program = torch.export.export(
                graph.network,
                (),
                graph.arguments,
                dynamic_shapes=graph.dynamic,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            expected = _listed(graph.network(**graph.others))
        if wanted == "torch-export":
            torch.export.save(program, folder / f"{graph.name}.pt2")
            with torch.no_grad():
                found: list[Tensor] | None = _listed(program.module()(**graph.others))
        else:
            _write_onnx(program, graph, folder / f"{graph.name}.onnx")
            found = _run_onnx(folder / f"{graph.name}.onnx", graph.others)
        differences[graph.name] = None if found is None else _largest(expected, found)
    return differences


def _write_onnx(program: Any, graph: Graph, path: Path) -> None:
    # It names every operator of torchvision that is not installed and not needed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    try:
        made = torch.onnx.export(
            program,
            input_names=list(graph.arguments),
            output_names=list(graph.results),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    except (ImportError, ModuleNotFoundError) as error:
        raise ValueError(f"ONNX files need packages of their own ({error}): pip install 'smalti[onnx]'") from None
    if made is None:
        raise ValueError(f"torch could not write {path.name}")
    made.save(str(path))


def _run_onnx(path: Path, arguments: Mapping[str, Tensor]) -> list[Tensor] | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path))
    results = session.run(None, {name: tensor.numpy() for name, tensor in arguments.items()})
    return [torch.from_numpy(result) for result in results]


def _listed(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _largest(expected: list[Tensor], found: list[Tensor]) -> float:
    return max((a.double() - b.double()).abs().max().item() for a, b in zip(expected, found, strict=True))
