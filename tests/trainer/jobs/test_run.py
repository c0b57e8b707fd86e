"""A run's training and validation data must mean the same by their classes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import processes
import pytest
from fixtures.priors import prior_run, write_tokenizer
from fixtures.shards import encoded, photo

from smalti.models.conditions import ClassConfig, UnconditionalConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.trainer.checkpoint import loading
from smalti.trainer.checkpoint.loading import load_tokenizer
from smalti.trainer.data.config import DataConfig, SourceConfig
from smalti.trainer.data.crops import AnyCropConfig, CodeCropConfig, CropConfig
from smalti.trainer.distributed import ranks
from smalti.trainer.distributed.engine import EngineConfig, NetworkConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig
from smalti.trainer.images.geometry import Measured
from smalti.trainer.jobs.run import built, resolve_tokenizers
from smalti.trainer.prepare.encode import EncodeConfig, EncodeJob, encode
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.prior.previews import PreviewConfig
from smalti.trainer.prior.task import PriorTask
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import ShardWriter
from smalti.trainer.training.loop import BatchConfig, LoopConfig

IMAGES, CODES = CropConfig(size=16), CodeCropConfig(window=(4, 4))
SETS = {
    "all": ("cat", "dog", "fox"),
    "without dogs": ("cat", "fox"),
    "without foxes": ("cat", "dog"),
    "numbers": (),
    "more": ("cat", "dog", "fox", "yak"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of images for each of the sets of classes, and the codes of each."""
    folder = tmp_path_factory.mktemp("classes")
    write_tokenizer(folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer", ranks.device())
    for name, classes in SETS.items():
        with ShardWriter(folder / "images" / name, "x", 8, {"kind": "images", "classes": list(classes)}) as writer:
            for number in range(4):
                members = {"png": encoded(photo(16, 16, number), "PNG"), "cls": b"%d" % (number % 2)}
                writer.write(f"p{number}", members, Measured(16, 16))
        source = ShardSet.open([str(folder / "images" / name)])
        encode(EncodeJob(source, folder / "codes" / name, tokenizer, {}, EncodeConfig(tile=8)), print)
    return folder


def run_on(place: Path, kind: str, training: Sequence[str], val: str, conditioned: bool = True) -> PriorRun:
    crop: AnyCropConfig = IMAGES if kind == "images" else CODES
    sources = tuple(SourceConfig((str(place / kind / name),)) for name in training)
    return prior_run(
        place,
        train_data=DataConfig(mixture=sources, crop=crop),
        val_data=DataConfig(shards=(str(place / kind / val),), crop=crop),
        loop=LoopConfig(max_steps=1),
        batch=BatchConfig(global_batch_size=2, micro_batch_size=2),
        model=GPTConfig(layers=1, heads=2, width=16, window=(4, 4)),
        condition=ClassConfig(classes=4) if conditioned else UnconditionalConfig(),
        training=NetworkConfig(optimizer=OptimizerConfig(learning_rate=1e-3), engine=EngineConfig()),
        previews=None,
    )


def build(run: PriorRun) -> None:
    built(run, resolve_tokenizers(run))


@pytest.mark.parametrize("kind", ["images", "codes"])
@pytest.mark.parametrize(
    ("training", "val"),
    [
        (["all"], "without dogs"),
        (["without dogs"], "all"),
        (["all", "without dogs"], "all"),
        (["more"], "without dogs"),
    ],
)
def test_a_number_with_two_names_is_refused_with_both_and_a_way_out(
    place: Path, kind: str, training: list[str], val: str
):
    with pytest.raises(ValueError, match=r"class 1 is '(dog|fox)' in .* and '(dog|fox)' in .*--classes"):
        build(run_on(place, kind, training, val))


def test_more_named_classes_than_the_prior_knows_are_refused_with_the_number_to_set(place: Path):
    run = replace(run_on(place, "codes", ["all"], "without foxes"), condition=ClassConfig(classes=2))
    with pytest.raises(ValueError, match=r"3 classes, cat to fox, and the prior knows 2; set condition.classes to 3"):
        built(run, resolve_tokenizers(run))


FINE = [(["all"], "all"), (["all"], "without foxes"), (["all"], "numbers"), (["without foxes", "more"], "all")]


def build_all(place: str) -> int:
    """All runs whose classes agree, and one that reads none; runs on a rank."""
    for kind in ("images", "codes"):
        for training, val in FINE:
            build(run_on(Path(place), kind, training, val))
    build(run_on(Path(place), "codes", ["all"], "without dogs", conditioned=False))
    return 2 * len(FINE) + 1


def test_equal_numbers_for_equal_names_are_fine_though_some_lack_and_unread_ones_are_not_compared(place: Path):
    assert processes.run(build_all, 1, place) == [9]


def test_code_shards_whose_first_half_was_made_before_names_were_noted_go_on(place: Path, tmp_path: Path):
    from smalti.trainer.shards.index import ShardIndex, index_bytes
    from smalti.trainer.shards.scan import scan

    for half, name in (("a", "all"), ("b", "all")):
        (tmp_path / "images").mkdir(exist_ok=True)
        for suffix in (".tar", ".tar.idx"):
            data = (place / "images" / name / f"x-000000{suffix}").read_bytes()
            (tmp_path / "images" / f"{half}{suffix}").write_bytes(data)
    source = ShardSet.open([str(tmp_path / "images")])
    job = EncodeJob(
        source, tmp_path / "codes", load_tokenizer(place / "tokenizer", ranks.device()), {}, EncodeConfig(tile=8)
    )
    encode(job, print)
    made = tmp_path / "codes" / "a.tar"
    index = ShardIndex.read(Path(f"{made}.idx"))
    notes = {name: note for name, note in index.notes.items() if name != "classes"}
    found = scan(made)
    Path(f"{made}.idx").write_bytes(index_bytes(found.rows, found.tar_bytes, index.provenance, notes))
    (tmp_path / "codes" / "b.tar").unlink()
    (tmp_path / "codes" / "b.tar.idx").unlink()
    assert encode(job, print).shards == 2
    assert ShardSet.open([str(tmp_path / "codes")]).classes == SETS["all"]


def look_up(place: str) -> tuple[int, int]:
    """How often a checkpoint of the tokenizer is looked up until a preview is there, and how many images it has."""
    looked_up, plain = [], loading.resolve_weights

    def counted(path: Path) -> Path:
        looked_up.append(path)
        return plain(path)

    loading.resolve_weights = counted
    run = replace(
        run_on(Path(place), "images", ["all"], "all"),
        previews=PreviewConfig(images=1, share=1.0),
        batch=BatchConfig(global_batch_size=4, micro_batch_size=2),
    )
    task, training, val = built(run, resolve_tokenizers(run))
    assert isinstance(task, PriorTask) and task.budget is not None
    for _ in range(1000):
        task.budget.train(1.0)
    task.step(next(training.train_batches(0)), 0)
    shown = task.preview(next(iter(val.eval_batches(2))))
    return len(looked_up), len(shown)


def test_the_tokenizer_is_looked_up_once_a_job_by_rank_0_alone_and_previews_use_what_was_found(place: Path):
    (first, shown), (second, _) = processes.run(look_up, 2, place)
    assert first == 1 and second == 0 and shown > 0
