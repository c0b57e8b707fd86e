"""What goes out for taming-transformers loads with ``strict=True`` into its module tree, here written once more."""

import json
import math

import pytest
import torch
from fixtures import published
from torch import nn
from torch.nn import functional

from smalti.launch import export, import_weights
from smalti.models.priors.orders import OrderConfig
from smalti.trainer.checkpoint.loading import load_prior, load_tokenizer

CPU = torch.device("cpu")


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.norm1, self.conv1 = norm(inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2, self.conv2 = norm(outside), nn.Conv2d(outside, outside, 3, padding=1)
        if inside != outside:
            self.nin_shortcut = nn.Conv2d(inside, outside, 1)

    def forward(self, x):
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (part(h).flatten(2) for part in (self.q, self.k, self.v))  # (B, C, places)
        weights = (q.transpose(1, 2) @ k / math.sqrt(x.shape[1])).softmax(2)
        return x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))


class Resampled(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=0 if stride == 2 else 1)
        self.stride = stride

    def forward(self, x):
        if self.stride == 2:
            return self.conv(functional.pad(x, (0, 1, 0, 1)))
        return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def middle(channels):
    mid = nn.Module()
    mid.block_1, mid.attn_1, mid.block_2 = (
        ResnetBlock(channels, channels),
        AttnBlock(channels),
        ResnetBlock(channels, channels),
    )
    return mid


def level(inside, outside, blocks, attention):
    made = nn.Module()
    made.block = nn.ModuleList(ResnetBlock(inside if n == 0 else outside, outside) for n in range(blocks))
    made.attn = nn.ModuleList(AttnBlock(outside) for _ in range(blocks if attention else 0))
    return made


def through(part, x):
    for number, block in enumerate(part.block):
        x = block(x)
        if len(part.attn):
            x = part.attn[number](x)
    return x


class Coder(nn.Module):
    """The encoder (``down``) or the decoder (``up``) of a ddconfig."""

    def __init__(self, dd, way):
        super().__init__()
        widths = [dd["ch"] * multiplier for multiplier in dd["ch_mult"]]
        levels, lowest = len(widths), widths[-1]
        sides = [dd["resolution"] // 2**number for number in range(levels)]
        self.way, down = way, way == "down"
        self.conv_in = nn.Conv2d(
            dd["in_channels"] if down else dd["z_channels"], dd["ch"] if down else lowest, 3, padding=1
        )
        self.mid = middle(lowest)
        parts = []
        for n, width in enumerate(widths):
            before = ([dd["ch"], *widths][n]) if down else [*widths, lowest][n + 1]
            part = level(before, width, dd["num_res_blocks"] + (not down), sides[n] in dd["attn_resolutions"])
            if down and n < levels - 1:
                part.downsample = Resampled(width, 2)
            if not down and n:
                part.upsample = Resampled(width, 1)
            parts.append(part)
        setattr(self, way, nn.ModuleList(parts))
        self.norm_out = norm(lowest if down else widths[0])
        outside = dd["z_channels"] if down else dd["out_ch"]
        self.conv_out = nn.Conv2d(lowest if down else widths[0], outside, 3, padding=1)

    def _middle(self, x):
        return self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))

    def forward(self, x):
        x = self.conv_in(x)
        if self.way == "down":
            for part in self.down:
                x = through(part, x)
                x = part.downsample(x) if hasattr(part, "downsample") else x
            x = self._middle(x)
        else:
            x = self._middle(x)
            for part in reversed(self.up):
                x = through(part, x)
                x = part.upsample(x) if hasattr(part, "upsample") else x
        return self.conv_out(functional.silu(self.norm_out(x)))


class VQModel(nn.Module):
    """Of any of the three classes; ``encode`` gives codes."""

    def __init__(self, config):
        super().__init__()
        kind, params = config["target"].rsplit(".", 1)[1], config["params"]
        dd, width, codes = params["ddconfig"], params["embed_dim"], params["n_embed"]
        self.encoder, self.decoder = Coder(dd, "down"), Coder(dd, "up")
        self.quantize = nn.Module()
        self.kind = kind
        if kind == "GumbelVQ":
            self.quantize.proj, self.quantize.embed = nn.Conv2d(width, codes, 1), nn.Embedding(codes, width)
        else:
            self.quantize.embedding = nn.Embedding(codes, width)
        if kind == "VQSegmentationModel":
            self.register_buffer("colorize", torch.zeros(3, params["n_labels"], 1, 1))
        self.quant_conv = nn.Conv2d(dd["z_channels"], width, 1)
        self.post_quant_conv = nn.Conv2d(width, dd["z_channels"], 1)

    def encode(self, x):
        h = self.quant_conv(self.encoder(x))
        if self.kind == "GumbelVQ":
            return self.quantize.proj(h).argmax(1)
        vectors = h.permute(0, 2, 3, 1)
        return torch.cdist(vectors.flatten(0, 2), self.quantize.embedding.weight).argmin(1).view(vectors.shape[:3])

    def decode(self, codes):
        table = self.quantize.embed if self.kind == "GumbelVQ" else self.quantize.embedding
        return self.decoder(self.post_quant_conv(table(codes).permute(0, 3, 1, 2)))


class SelfAttention(nn.Module):
    def __init__(self, width, heads, block_size):
        super().__init__()
        self.key, self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.register_buffer("mask", torch.zeros(1, 1, block_size, block_size))
        self.heads = heads

    def forward(self, x):
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        length = x.shape[1]
        weights = scores.masked_fill(self.mask[:, :, :length, :length] == 0, -math.inf).softmax(3)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class GPT(nn.Module):
    def __init__(self, vocab_size, block_size, n_layer, n_head, n_embd, n_unmasked):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(vocab_size, n_embd), nn.Parameter(torch.zeros(1, block_size, n_embd))
        self.blocks = nn.ModuleList(nn.Module() for _ in range(n_layer))
        for block in self.blocks:
            block.ln1, block.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
            block.attn = SelfAttention(n_embd, n_head, block_size)
            block.mlp = nn.Sequential(
                nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd), nn.Dropout(0)
            )
        self.ln_f, self.head = nn.LayerNorm(n_embd), nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok_emb(tokens) + self.pos_emb[:, : tokens.shape[1]]
        for block in self.blocks:
            x = x + block.attn(block.ln1(x))
            x = x + block.mlp(block.ln2(x))
        return self.head(self.ln_f(x))


class Net2NetTransformer(nn.Module):
    def __init__(self, params):
        super().__init__()
        self.first_stage_model = VQModel(params["first_stage_config"])
        if "vqgan" in params["cond_stage_config"]["target"]:
            self.cond_stage_model = VQModel(params["cond_stage_config"])
        if "permuter_config" in params:
            self.permuter = nn.Module()
            sides = params["permuter_config"]["params"]
            for name in ("forward_shuffle_idx", "backward_shuffle_idx"):
                self.permuter.register_buffer(name, torch.zeros(sides["H"] * sides["W"], dtype=torch.int64))
        self.transformer = GPT(**params["transformer_config"]["params"])


def strictly_loaded(folder, kind):
    """The module tree of the folder's config, with the folder's state."""
    model = json.loads((folder / "config.yaml").read_text())["model"]
    made = kind(model if kind is VQModel else model["params"]).eval()
    made.load_state_dict(torch.load(folder / "model.ckpt", weights_only=True)["state_dict"], strict=True)
    return made


def one_hot(maps, labels):
    return functional.one_hot(maps, labels).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("name", published.VQGANS)
def test_a_vqgan_loads_strictly_and_gives_the_same_codes_and_images(tmp_path, name):
    config = published.VQGANS[name]
    torch.save({"state_dict": published.vqgan_state(config)}, tmp_path / "last.ckpt")
    assert import_weights.main([str(tmp_path / "last.ckpt"), str(tmp_path / "in")]) == 0
    assert export.main([str(tmp_path / "in"), str(tmp_path / "out"), "--format", "taming"]) == 0
    theirs, ours = strictly_loaded(tmp_path / "out", VQModel), load_tokenizer(tmp_path / "in", CPU).model
    sides = (2 * config.factor, 3 * config.factor)
    images = torch.randint(9, (2, *sides)) if config.num_labels else torch.randn(2, config.in_channels, *sides)
    with torch.no_grad():
        codes = theirs.encode(one_hot(images, 9) if config.num_labels else images)
        assert torch.equal(ours.encode(images).indices, codes) and len(codes.unique()) > 1
        torch.testing.assert_close(ours.decode_codes(codes), theirs.decode(codes), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("order", ["raster", "spiral_in"])
@pytest.mark.parametrize("maps", [False, True], ids=["class", "map"])
def test_a_prior_loads_strictly_with_its_stages_and_gives_the_same_logits(tmp_path, maps, order):
    cells = OrderConfig(kind=order).build((4, 4))
    state = published.net2net_state(published.F16, published.SEGMENTATION if maps else None)
    if order != "raster":
        state |= {"permuter.forward_shuffle_idx": cells, "permuter.backward_shuffle_idx": cells.argsort()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    options = ["--heads", "4", *([] if maps else ["--condition", "class:5"])]
    assert import_weights.main([str(tmp_path / "last.ckpt"), str(tmp_path / "in"), *options]) == 0
    stages = ["--tokenizer", str(tmp_path / "in" / "tokenizer")]
    stages += ["--condition-tokenizer", str(tmp_path / "in" / "condition")] if maps else []
    arguments = [str(tmp_path / "in" / "prior"), str(tmp_path / "out"), "--format", "taming", *stages]
    assert export.main(arguments) == 0
    theirs, ours = (
        strictly_loaded(tmp_path / "out", Net2NetTransformer),
        load_prior(tmp_path / "in" / "prior", CPU).model,
    )
    codes, known = torch.randint(24, (2, 4, 4)), torch.randint(20, (2, 4, 4)) if maps else torch.tensor([1, 4])
    assert torch.equal(theirs.permuter.forward_shuffle_idx, cells) if order != "raster" else True
    prefix = known.flatten(1) if maps else known[:, None]
    with torch.no_grad():
        read = torch.cat((prefix, codes.flatten(1)[:, cells]), dim=1)[:, :-1]
        expected = theirs.transformer(read)[:, prefix.shape[1] - 1 :]
        logits = ours(codes, {"segmentation_codes" if maps else "cls": known}).logits.flatten(1, 2)[:, cells]
    torch.testing.assert_close(logits, expected[..., :24], atol=2e-5, rtol=1e-4)
