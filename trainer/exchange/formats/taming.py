"""Checkpoints of CompVis/taming-transformers, and of latent diffusion's VQ models, which have the same names.

Shapes: K codes of the image's tokenizer, V tokens of the one vocabulary that codes and conditions share there, P tokens
of a condition, N = h * w codes of a window, C channels.
"""

import re
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....models.conditions import ClassConfig, CodeMapConfig, ConditionConfig, UnconditionalConfig
from ....models.priors.gpt import GPTConfig
from ....models.priors.orders import OrderConfig, OrderKind
from ...checkpoint import model_files
from ..codebook_subset import cut_down
from ..hints import Hints
from ..networks import Network, prior_metadata, vqgan_metadata
from ..sources.ledger import Ledger
from ..vqgan_shapes import discriminator_config, network_shapes, vqgan_config

NETWORK = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv|quantize)\.")
ORDERS: tuple[OrderKind, ...] = (
    "raster",
    "alternate",
    "z_curve",
    "subsample",
    "taming_spiral_in",
    "taming_spiral_out",
    "taming_random",
    "spiral_in",
    "spiral_out",
)


def import_networks(ledger: Ledger, hints: Hints) -> dict[str, Network]:
    """The networks of a checkpoint: one VQGAN without a name, or ``prior``, ``tokenizer`` and their condition's.

    Raises:
        ValueError: it is none, or cannot be represented.
    """
    shapes = ledger.shapes()
    if "transformer.tok_emb.weight" not in shapes:
        return {"": _vqgan(ledger, "")}
    networks = {"tokenizer": _vqgan(ledger, "first_stage_model.")}
    maps = "cond_stage_model.quant_conv.weight" in shapes
    if maps:
        networks["condition"] = _vqgan(ledger, "cond_stage_model.")
    networks["prior"] = _Net2Net(ledger, hints, networks["tokenizer"], networks.get("condition")).network()
    return networks


def _vqgan(ledger: Ledger, prefix: str) -> Network:
    """The autoencoder under a prefix, with its discriminator where it has a known one."""
    shapes = {name: shape for name, shape in ledger.shapes(prefix).items() if NETWORK.match(name)}
    renumbered = shapes.pop("quantize.used", None) is not None
    config = vqgan_config(shapes, ledger.source)
    wanted = network_shapes(config)
    weights = ledger.fill(wanted, {name: prefix + name for name in wanted}, "autoencoder")
    if config.quantizer.kind == "vq":
        weights["quantize.idle"] = torch.zeros(config.codebook_size, dtype=torch.int64)
    below = re.escape(prefix)
    ledger.drop(rf"{below}colorize$", "a random projection that shows maps in logs")
    ledger.drop(rf"{below}loss\.perceptual_loss\.", "LPIPS, a frozen network of the training")
    ledger.drop(rf"{below}model_ema\.", "averages of weights that are here themselves")
    discriminator = _discriminator(ledger, f"{prefix}loss.discriminator.")
    metadata = vqgan_metadata(config)
    if renumbered:
        weights, metadata = _of_the_used_codes(ledger, f"{prefix}quantize.used", weights, metadata)
    return Network(weights, metadata, discriminator)


def _of_the_used_codes(
    ledger: Ledger, name: str, weights: dict[str, Tensor], metadata: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A network whose codes were renumbered (``remap``), cut down to those that have a number, in their order."""
    used = ledger.take(name, "which codes have a number").long().tolist()
    if len(set(used)) != len(used) or not all(0 <= code < metadata["codes"] for code in used):
        raise ValueError(f"{ledger.source}: {name} must name each of its {metadata['codes']} codes at most once")
    smaller, said = cut_down(weights, metadata | {"digest": model_files.digest(weights)}, used)
    return smaller, {name: value for name, value in said.items() if name != "digest"}  # which is that of all codes


def _discriminator(ledger: Ledger, prefix: str) -> Any:
    shapes = ledger.shapes(prefix)
    config = discriminator_config(shapes)
    if config is None:
        ledger.drop(re.escape(prefix), "a discriminator of a kind that is not known here")
        return None
    if config.norm == "act":
        ledger.drop(rf"{re.escape(prefix)}main\.\d+\.initialized$", "whether a norm has begun, which its numbers say")
        shapes = {name: shape for name, shape in shapes.items() if not name.endswith(".initialized")}
    weights = ledger.fill(shapes, {name: prefix + name for name in shapes}, "discriminator")
    return config, _with_act_norms(weights) if config.norm == "act" else weights


def _with_act_norms(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published shifts and scales of ActNorm as those of its first batch, with nothing trained beside them."""
    norms = [name.removesuffix(".loc") for name in weights if name.endswith(".loc")]
    made = dict(weights)
    for norm in norms:
        shift, scale = (weights[f"{norm}.{part}"].flatten() for part in ("loc", "scale"))
        made |= {f"{norm}.loc": torch.zeros_like(shift), f"{norm}.scale": torch.zeros_like(scale)}
        made |= {f"{norm}.first_loc": shift, f"{norm}.first_scale": scale}
        made[f"{norm}.initialized"] = torch.tensor(bool(shift.any() or (scale != 1).any()))
    return made


class _Net2Net:
    """The prior of a checkpoint with its first stage, and with its second where the condition has one."""

    def __init__(self, ledger: Ledger, hints: Hints, tokenizer: Network, maps: Network | None) -> None:
        self.ledger, self.hints, self.tokenizer, self.maps = ledger, hints, tokenizer, maps
        self.shapes = ledger.shapes("transformer.")
        self.codes: int = tokenizer.metadata["codes"]
        self.vocabulary, self.width = self.shapes["tok_emb.weight"]
        if self.vocabulary < self.codes:
            raise ValueError(f"{ledger.source}: its prior has {self.vocabulary} tokens for {self.codes} codes")
        positions = self.shapes.get("pos_emb", ())
        if len(positions) != 3:
            raise ValueError(f"{ledger.source}: transformer.pos_emb has the shape {positions}, and should have three")
        self.block_size = positions[1]

    def network(self) -> Network:
        """The prior."""
        condition, window = self._condition(), self._window()
        config = GPTConfig(
            layers=len({name.split(".")[1] for name in self.shapes if name.startswith("blocks.")}),
            heads=self._heads(),
            width=self.width,
            window=window,
            order=self._order(window),
            bidirectional_prefix=self._bidirectional_prefix(),
        )
        with torch.device("meta"):
            network = config.build(self.codes, condition)
        wanted = {
            name: tuple(t.shape) for name, t in network.state_dict().items() if name.startswith(("blocks.", "ln_f"))
        }
        weights = self.ledger.fill(wanted, {name: f"transformer.{name}" for name in wanted}, "prior")
        weights |= self._tables(config, condition)
        maps = {} if self.maps is None else {self._field(self.maps).removesuffix("_codes"): self.maps.digest}
        metadata = prior_metadata(config, condition, self.tokenizer.metadata, (self.tokenizer.digest, maps))
        return Network(weights, metadata)

    def _tables(self, config: GPTConfig, condition: ConditionConfig) -> dict[str, Tensor]:
        """Tokens, positions, head and the condition's own table."""
        tokens = self.ledger.take("transformer.tok_emb.weight", "prior")
        head = self.ledger.take("transformer.head.weight", "prior")
        if head.shape != tokens.shape:
            raise ValueError(
                f"{self.ledger.source}: transformer.head.weight is {tuple(head.shape)}, not that of tok_emb"
            )
        tables = {"tok_emb.weight": tokens[: self.codes].clone(), "head.weight": head[: self.codes].clone()}
        if isinstance(condition, UnconditionalConfig):
            start = self.hints.start or 0
            if start >= self.vocabulary:
                raise ValueError(f"the start token must be below {self.vocabulary}, got {start}")
            tables["condition.start"] = tokens[start].clone()
        else:
            rows = condition.classes if isinstance(condition, ClassConfig) else getattr(condition, "vocab_size", 0)
            if rows > self.vocabulary:
                raise ValueError(
                    f"{self.ledger.source}: the condition has {rows} values, its vocabulary {self.vocabulary}"
                )
            tables["condition.table.weight"] = tokens[:rows].clone()
        tables["condition.absent"] = torch.zeros(self.width)
        places = self.ledger.take("transformer.pos_emb", "prior")
        cells = config.order.build(config.window)
        prefix = self._prefix()
        # The last code is never read, so that its position may be missing.
        padded = F.pad(places, (0, 0, 0, prefix + len(cells) - places.shape[1]))
        by_cell = torch.zeros_like(padded)
        by_cell[:, :prefix] = padded[:, :prefix]
        by_cell[:, prefix + cells] = padded[:, prefix:]
        return tables | {"pos_emb": by_cell}

    def _condition(self) -> ConditionConfig:
        if self.maps is not None:
            return CodeMapConfig(field=self._field(self.maps), vocab_size=self.maps.metadata["codes"])
        return self.hints.condition_config(self.ledger.source)

    @staticmethod
    def _field(maps: Network) -> str:
        field = maps.metadata["target"]
        if field == "image":
            raise ValueError(
                "the condition of the prior is itself an image of colors, which this project cannot encode"
            )
        return f"{field}_codes"

    def _prefix(self) -> int:
        """P."""
        whole = self.maps is not None or (self.hints.condition or "").startswith("coordinates")
        return (self.block_size + 1) // 2 if whole else 1

    def _window(self) -> tuple[int, int]:
        """Rows and columns; the block holds P + N positions, or one less, because the last code is not read."""
        prefix = self._prefix()
        cells = {self.block_size - prefix, self.block_size + 1 - prefix}
        if self.hints.window is not None:
            rows, columns = self.hints.window
            if rows * columns not in cells:
                raise ValueError(f"a window of {rows}x{columns} codes does not fill {self.block_size} positions")
            return rows, columns
        square = [side for side in map(isqrt, cells) if side * side in cells]
        if not square:
            raise ValueError(f"{self.ledger.source}: {self.block_size} positions are no square window; give --window")
        return square[0], square[0]

    def _heads(self) -> int:
        if self.hints.heads is None:
            raise ValueError(
                f"{self.ledger.source} does not say how many heads its prior has, and shapes cannot tell; give its "
                "project's YAML with --config, or --heads (16 in the paper)"
            )
        return self.hints.heads

    def _order(self, window: tuple[int, int]) -> OrderConfig:
        """The permuter, whose two tables say the same: of a known kind, or the list of its cells."""
        name = "permuter.forward_shuffle_idx"
        if name not in self.ledger.shapes():
            return OrderConfig()
        cells = self.ledger.take(name, "order of the codes")
        self.ledger.drop(r"permuter\.backward_shuffle_idx$", "the inverse of the order")
        if cells.dim() != 1 or not torch.equal(cells.sort().values, torch.arange(window[0] * window[1])):
            raise ValueError(f"{self.ledger.source}: {name} is no order of the {window[0]} x {window[1]} codes")
        for kind in ORDERS:
            if torch.equal(OrderConfig(kind=kind).build(window), cells):
                return OrderConfig(kind=kind)
        return OrderConfig(kind="list", cells=tuple(cells.tolist()))

    def _bidirectional_prefix(self) -> int:
        """How many tokens of the condition see each other in both directions: the masks say it, else computed here."""
        prefix = 0
        for name in [name for name in self.shapes if re.fullmatch(r"blocks\.\d+\.attn\.mask", name)][:1]:
            mask = self.ledger.take(f"transformer.{name}", "what of the condition is read in both directions")
            causal = torch.ones(1, 1, self.block_size, self.block_size).tril()
            prefix = int(mask[0, 0, 0].count_nonzero()) if mask.shape == causal.shape else 0
            causal[..., :prefix, :prefix] = 1
            if not torch.equal(mask, causal) or prefix > self._prefix():
                raise ValueError(
                    f"{self.ledger.source}: its attention is neither causal nor so behind a part of the condition"
                )
        self.ledger.drop(r"transformer\.blocks\.\d+\.attn\.mask$", "masks, which are computed")
        return 0 if prefix == 1 else prefix
