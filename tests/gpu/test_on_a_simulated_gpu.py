"""A simulated GPU: every tensor of a step lies there, the host waits where it must alone, and graphs replay."""

import warnings
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from fixtures.games import game, micro_batches
from fixtures.simulated_gpu import CPU, GPU, simulated_gpu
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smalti.models.conditions import (
    CaptionConfig,
    ClassConfig,
    CodeMapConfig,
    CompositeConfig,
    CoordinateFeaturesConfig,
    CoordinatesConfig,
    LowResolutionConfig,
    ObjectsConfig,
)
from smalti.models.layers.channels_last_norm import is_channels_last
from smalti.models.priors.editor import EditorConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.models.priors.neighborhood import NeighborhoodConfig
from smalti.models.sampling import UNFILLED, GridRequest, GuidanceConfig, SamplingConfig, sample_steps, sampler
from smalti.models.vqgan import tiling
from smalti.models.vqgan.autoencoder import VQGANConfig
from smalti.models.vqgan.tiling import Tiling
from smalti.trainer.checkpoint.loading import LoadedTokenizer
from smalti.trainer.config import from_mapping, to_mapping
from smalti.trainer.distributed import engine as engines
from smalti.trainer.distributed import ranks
from smalti.trainer.prepare.code_members import CodeMemberEncoder
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.prior.data import CodeSource
from smalti.trainer.prior.online_encoder import OnlineEncoder
from smalti.trainer.prior.task import PriorTask
from smalti.trainer.vqgan.task import VQGANTask

CODES, WINDOW, STEPS = 16, (4, 4), 2
ENGINE = {"zero_stage": 1, "precision": "bf16", "grad_clip": 1.0}
BF16 = {"optimizer": {"learning_rate": 1e-3}, "engine": ENGINE}
GAMES = {
    "fp32, ZeRO 0": {"generator_zero": 0, "discriminator_zero": 0},
    "batch norm, the published order": {"norm": "batch", "discriminator_fakes": "updated_generator"},
    "bf16, channels-last, LPIPS, LeCAM": {"extra": {
        "channels_last": True, "generator_training": BF16, "discriminator_training": BF16,
        "loss": {"perceptual": {"trunk": "random"}, "adversarial": {"lecam": {}}},
    }},
    "R1, ZeRO 2, fsq": {
        "r1_gamma": 1.0, "generator_zero": 2, "discriminator_zero": 2,
        "quantizer": {"kind": "fsq", "levels": [4, 4, 4, 4]},
    },
    "ibq": {"quantizer": {"kind": "ibq", "codebook_size": CODES}},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def group():
    with ranks.process_group(300.0):
        yield


def test_tensors_say_where_they_would_be():
    with simulated_gpu():
        there, here = torch.ones(3, device=GPU), torch.ones(3)
        assert there.device == (there + 1).device == there[:2].device == torch.zeros_like(there).device == GPU
        assert here.device == there.cpu().device == CPU and here.to(there).is_cuda and not here.is_cuda


def test_an_operator_on_tensors_of_both_devices_is_refused():
    with simulated_gpu():
        there, here = torch.ones(3, device=GPU, requires_grad=True), torch.ones(3)
        assert (there * torch.tensor(2.0)).is_cuda  # a number of the host is allowed, as on a GPU
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[torch.ones(2).long().to(GPU)],
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.detach().numpy()


@pytest.mark.parametrize("read", [
    lambda tensor: tensor[0].item(), lambda tensor: tensor.tolist(), lambda tensor: tensor.cpu(),
    lambda tensor: bool(tensor.all()), lambda tensor: tensor.nonzero(), lambda tensor: tensor[tensor > 0],
    lambda tensor: tensor.new_tensor([1.0]), lambda tensor: torch.tensor([1.0], device=tensor.device),
    lambda tensor: tensor.where(tensor > 0, 0.0), lambda tensor: tensor[..., [2, 0]],
    lambda tensor: tensor.index_put_((tensor.long(),), torch.tensor(1.0)),
])  # fmt: skip
def test_what_the_host_waits_for_is_counted_and_refused_while_a_graph_is_captured(read):
    with simulated_gpu() as gpu:
        tensor = torch.ones(3, device=GPU)
        read(tensor)
        assert gpu.waits.total() == 1
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(graph):
            read(tensor)
        torch.ones(3).to(GPU, non_blocking=True)
        torch.ones(3)[0].item()
        assert gpu.waits.total() == 1


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.filterwarnings("ignore:a frozen judge")
def test_a_step_of_a_vqgan_lies_on_the_gpu_and_waits_once(name):
    run = game(micro=4, **GAMES[name])
    with simulated_gpu() as gpu:
        task = VQGANTask(run, accumulation=2)
        for step in range(STEPS):
            gpu.waits.clear()
            task.step(micro_batches(step, 4, 0, 1), step)
            assert step == 0 or (list(gpu.waits.values()) == [1] and "tolist" in next(iter(gpu.waits)))
        task.evaluate(iter(micro_batches(0, 4, 0, 1)))
        task.preview(micro_batches(0, 4, 0, 1)[0])
        task.load_state_dict(task.state_dict())
        assert all(value.device == CPU for value in task.weights().values())
        assert engines.state_of(task.engines)["grad_norm/generator"] > 0


def stored(tensor: torch.Tensor) -> str:
    """How a batch of many channels is stored; nothing is said of others, or where both ways are one."""
    if tensor.dim() != 4 or tensor.shape[1] <= 4:
        return ""
    if tensor.is_contiguous():
        return "" if tensor.is_contiguous(memory_format=torch.channels_last) else "channels-first"
    return "channels-last" if is_channels_last(tensor) else "in another way"


class Layouts(TorchDispatchMode):
    """Notes operators that take batches stored channels-last and leave others, and how convolutions find theirs."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.changed, self.convolutions = batch, [], Counter()

    def is_batch(self, tensor: torch.Tensor) -> bool:
        return tensor.dim() > 0 and len(tensor) == self.batch  # gradients of weights are small, and stored as these

    def __torch_dispatch__(self, operator, types, positional=(), named=None):
        result = operator(*positional, **(named or {}))
        name = operator._schema.name.split("::")[-1]
        before, after = (
            [stored(leaf) for leaf in tree_leaves(tensors) if isinstance(leaf, torch.Tensor) and self.is_batch(leaf)]
            for tensors in (positional, result)
        )
        if name.startswith("convolution"):
            self.convolutions[name, stored(positional[0])] += 1
        if name != "permute" and "channels-last" in before and "channels-first" in after:
            self.changed.append((name, [tuple(leaf.shape) for leaf in tree_leaves(result)]))
        if name == "native_group_norm" and "channels-last" in before:
            self.changed.append((name, "leaves channels-last on a GPU"))
        return result


@pytest.mark.filterwarnings("ignore:a frozen judge")
def test_a_step_of_a_vqgan_stays_channels_last_from_end_to_end():
    settings = GAMES["bf16, channels-last, LPIPS, LeCAM"]
    with simulated_gpu():
        task = VQGANTask(game(micro=4, norm="batch", **settings), accumulation=1)
        task.step(micro_batches(0, 4, 0, 1)[:1], 0)
        with Layouts(4) as layouts:
            task.step(micro_batches(1, 4, 0, 1)[:1], 1)
    assert layouts.changed == []
    assert layouts.convolutions["convolution", "channels-last"] > 20
    assert layouts.convolutions["convolution_backward", "channels-last"] > 20
    assert not {how for _, how in layouts.convolutions} - {"channels-last", ""}


CONDITIONS = CompositeConfig(conditions=(
    ClassConfig(classes=3), CodeMapConfig(vocab_size=5), CoordinatesConfig(vocab_size=16),
    CoordinateFeaturesConfig(frequencies=2), LowResolutionConfig(pixels_per_code=2),
    CaptionConfig(tokens=3, channels=6), ObjectsConfig(objects=2, classes=4, grid=5, shuffle=True),
    ObjectsConfig(objects=2, classes=4, grid=5, representation="center", only_in_crop=True),
))  # fmt: skip


def fields_of_two_images(size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """What ``CONDITIONS`` read."""
    draws = torch.Generator().manual_seed(0)
    low = torch.rand(2, 3, 2 * size[0], 2 * size[1], generator=draws)
    return {
        "cls": torch.tensor([1, 2]), "segmentation_codes": torch.randint(5, (2, *size), generator=draws), "low": low,
        "box": torch.tensor([[8.0, 0.0, 8.0 + 16 * size[1], 16.0 * size[0]]] * 2), "flip": torch.tensor([False, True]),
        "source_size": torch.tensor([[100.0, 140.0]] * 2), "object_classes": torch.tensor([[0, -1], [3, 2]]),
        "text": torch.randn(2, 3, 6, generator=draws) * torch.tensor([0.0, 1.0, 1.0])[:, None],
        "object_boxes": torch.rand(2, 2, 4, generator=draws) * 96,
    }  # fmt: skip


def prior_task(model: dict, condition: dict, encoder=None) -> PriorTask:
    """A task in bf16 at ZeRO 1."""
    data = {"shards": ["none"], "crop": {"kind": "codes", "window": WINDOW}}
    run = from_mapping(PriorRun, {
        "run_dir": "none", "tokenizer": "none", "train_data": data, "val_data": data, "loop": {"max_steps": 4},
        "batch": {"global_batch_size": 4, "micro_batch_size": 2}, "previews": None,
        "model": {"layers": 2, "heads": 2, "width": 16, "window": WINDOW, "condition_dropout": 0.1,
                  "token_keep_prob": 0.9} | model,
        "condition": condition,
        "training": BF16,
    })  # fmt: skip
    metadata = {"codes": CODES, "factor": 4, "digest": ""}
    prior = run.model.build(CODES, run.condition)
    source = CodeSource(metadata, {}, None if encoder is None else encoder(prior.condition, metadata), ())
    return PriorTask(run, prior, source, 2)


@pytest.mark.parametrize("model", [
    {"kind": "gpt"}, {"kind": "gpt", "block": "llama", "annealing": {}}, {"kind": "neighborhood"},
], ids=["gpt2", "random orders", "neighborhood"])  # fmt: skip
def test_a_step_of_a_prior_lies_on_the_gpu_and_waits_for_nothing(model):
    grids = torch.randint(CODES, (2, *WINDOW))
    batch = {"codes": grids, "segmentation_codes": grids, "key": ["first", "second"]}
    with simulated_gpu() as gpu:
        task = prior_task(model, {"kind": "code_map", "vocab_size": CODES})
        gpu.waits.clear()
        for step in range(STEPS):
            task.step([batch, batch], step)
        assert not gpu.waits
        assert task.evaluate(iter([batch]))["nll"] > 0
        task.load_state_dict(task.state_dict())


def test_no_condition_makes_a_step_wait():
    batch = fields_of_two_images(WINDOW) | {"codes": torch.randint(CODES, (2, *WINDOW)), "key": ["first", "second"]}
    with simulated_gpu() as gpu:
        task = prior_task({"kind": "gpt"}, to_mapping(CONDITIONS))
        gpu.waits.clear()
        task.step([batch, batch], 0)
        assert not gpu.waits


def tokenizer() -> VQGANConfig:
    return VQGANConfig(
        channels=8, channel_multipliers=(1, 1, 2), num_res_blocks=1, attention_resolutions=(), z_channels=4,
        embed_dim=4, norm_groups=4, quantizer=game().model.quantizer,
    )  # fmt: skip


def test_images_are_encoded_beside_a_step_without_a_wait():
    def encoder(condition, metadata):
        model = tokenizer().build().to(ranks.device()).eval()
        return OnlineEncoder(LoadedTokenizer(model, metadata), {}, condition)

    labels = torch.randint(CODES, (2, 16, 16), dtype=torch.uint8)
    batch = {
        "image": torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8), "segmentation": labels,
        "cls": torch.tensor([0, 1]), "key": ["first", "second"],
    }  # fmt: skip
    parts = [
        {"kind": "code_map", "vocab_size": 256}, {"kind": "class", "classes": 2},
        {"kind": "low_resolution", "pixels_per_code": 2},
    ]  # fmt: skip
    with simulated_gpu() as gpu:
        task = prior_task({"kind": "gpt"}, {"kind": "composite", "conditions": parts}, encoder)
        gpu.waits.clear()
        task.step([batch, batch], 0)
        assert not gpu.waits


@pytest.mark.parametrize("tiles", [None, Tiling(4, 1)])
def test_images_are_encoded_and_decoded_on_the_gpu(tiles):
    torch.manual_seed(0)
    model = tokenizer().build().eval()
    rows = [
        {"image": np.random.default_rng(number).integers(256, size=(3, 32, 32), dtype=np.uint8),
         "segmentation": np.zeros((32, 32), np.uint8), "box": np.zeros(4), "source_size": np.zeros(2), "flip": False}
        for number in range(2)
    ]  # fmt: skip
    made = []
    for device in (nullcontext(), simulated_gpu()):
        with device:
            loaded = LoadedTokenizer(model.to(ranks.device()), {"factor": 4, "codes": CODES})
            made.append(CodeMemberEncoder(loaded, {}, True, tiles, 2).members(rows))
            codes = torch.randint(CODES, (1, 8, 8)).to(ranks.device())
            for manner in ("whole", "blended", "shared"):
                assert tiling.decode(model, codes, 4, 1, manner).device == CPU
    assert made[0] == made[1]


def sampled(config, scale: float, device: torch.device):
    """Codes and scores of a grid, of which some codes are given, and the state in its middle."""
    torch.manual_seed(0)
    settings = {"layers": 1, "heads": 2, "width": 16, "window": WINDOW, "condition_dropout": 0.1}
    prior = config(**settings).build(64, ClassConfig(classes=3)).to(device, torch.bfloat16).eval()
    given = torch.full((2, 8, 10), UNFILLED)
    given[:, :2, :5], given[0, 3, 3] = 5, 7
    drawing = SamplingConfig(lanes=4, prefill=2, top_p=0.9, top_k=20, guidance=GuidanceConfig(scale))
    request = GridRequest(prior, {"cls": torch.tensor([1, 2])}, (8, 10), (0, 1), 1, drawing, given)
    return sample_steps(request)


@pytest.mark.parametrize("config", [GPTConfig, NeighborhoodConfig])
@pytest.mark.parametrize("scale", [1.0, 2.0])  # without guidance and with it
def test_a_captured_sampler_waits_for_nothing_and_samples_what_a_cpu_samples(config, scale):
    *_, plain = sampled(config, scale, CPU)
    with simulated_gpu() as gpu, warnings.catch_warnings():
        warnings.simplefilter("error")  # what cannot be captured gives a warning
        steps = sampled(config, scale, GPU)
        next(steps)
        gpu.waits.clear()
        *_, captured = steps
        assert not gpu.waits
        assert captured.codes.is_cuda and captured.scores.is_cuda
        assert torch.equal(captured.codes.cpu(), plain.codes) and torch.equal(captured.scores.cpu(), plain.scores)


def test_the_host_runs_only_some_tens_of_steps_ahead(monkeypatch):
    class Event:
        """Notes the step at which it is recorded, and what is known to be done once it is waited for."""

        def __init__(self, blocking):
            assert blocking

        def record(self):
            self.step = launched

        def synchronize(self):
            nonlocal done
            done = self.step

    launched, done, ahead = 1, 0, []
    with simulated_gpu():
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(sampler, "LOOK_EVERY", 8)
        for launched, _ in enumerate(sampled(NeighborhoodConfig, 1.0, GPU), start=2):
            ahead.append(launched - 1 - done)
    assert len(ahead) > 30 and 8 <= max(ahead) <= 16


def test_windows_of_every_kind_of_condition_are_cut_inside_of_a_captured_step():
    size, fields = (6, 8), fields_of_two_images((6, 8))
    found = []
    for device in (CPU, GPU):
        with simulated_gpu() if device == GPU else nullcontext(), warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.manual_seed(0)
            prior = GPTConfig(layers=1, heads=2, width=16, window=WINDOW).build(16, CONDITIONS)
            request = GridRequest(prior.to(device).eval(), fields, size, (0, 1), 1, SamplingConfig(lanes=4, prefill=4))
            *_, state = sample_steps(request)
            found.append((state.codes.cpu(), state.scores.cpu()))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def edited(device: torch.device, attention: str):
    """The states of three candidates of an edit that spans two blocks and leaves one between them as it is."""
    torch.manual_seed(0)
    shape = {"encoder_layers": 1, "decoder_layers": 2, "heads": 2, "width": 16, "window": (6, 6), "blocks": (3, 3)}
    prior = (
        EditorConfig(**shape, attention=attention, picks=1).build(CODES, CodeMapConfig(vocab_size=3)).to(device).eval()
    )
    codes, masked = torch.arange(36).view(1, 6, 6) % CODES, torch.zeros(1, 6, 6, dtype=torch.bool)
    masked[:, 0, 1:3] = masked[:, 4:, 3:] = True
    fields = {"segmentation_codes": codes % 3, "masked": masked}
    fields = {name: field.expand(3, -1, -1).to(device) for name, field in fields.items()}
    known = codes.masked_fill(masked, UNFILLED).expand(3, -1, -1)
    return sample_steps(GridRequest(prior, fields, (6, 6), range(3), 1, SamplingConfig(lanes=4, top_k=20), known))


@pytest.mark.parametrize("attention", ["dense", "static"])
def test_a_captured_editor_waits_for_nothing_and_samples_what_a_cpu_samples(attention):
    *_, plain = edited(CPU, attention)
    with simulated_gpu() as gpu, warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = edited(GPU, attention)
        next(steps)
        gpu.waits.clear()
        *_, captured = steps
        assert not gpu.waits
        assert captured.codes.is_cuda
        assert torch.equal(captured.codes.cpu(), plain.codes) and torch.equal(captured.scores.cpu(), plain.scores)
