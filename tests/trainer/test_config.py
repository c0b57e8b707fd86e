"""From YAML to dataclasses: merging, overrides, and all problems at once."""

import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from smalti.trainer import config
from smalti.trainer.config import ConfigError, differences, dump, from_mapping, read, to_mapping


@dataclass(frozen=True)
class Vector:
    kind: Literal["vq"] = "vq"
    codes: int = 1024


@dataclass(frozen=True)
class FiniteScalar:
    kind: Literal["fsq"] = "fsq"
    levels: tuple[int, ...] = (8, 8, 8)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels must name at least 2 steps for each channel, got {self.levels}")


@dataclass(frozen=True)
class Adam:
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class Run:
    task: Literal["vqgan"] = "vqgan"
    precision: Literal["fp32", "bf16"] = "fp32"
    steps: int = 10
    name: str = "run"
    shuffle: bool = True
    note: str | None = None
    folder: Path = Path("runs")
    optimizer: Adam = Adam(lr=3e-4)
    quantizer: Vector | FiniteScalar = field(default_factory=Vector)
    weights: dict[str, float] = field(default_factory=dict)
    window: int | Literal["auto"] = "auto"
    average: Adam | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True)
class OtherRun:
    data: str
    task: Literal["prior"] = "prior"
    steps: int = 3


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def problems(cls: Any, source: Path | str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(cls, source, overrides)
    return list(caught.value.problems)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return write(tmp_path, "steps: 10", "empty.yaml")


def test_every_problem_is_told_at_once_with_path_value_and_suggestion(tmp_path):
    path = write(
        tmp_path,
        """
        precison: bf16
        optimizer: {beta: [0.5, 0.9], lr: fast}
        quantizer: {kind: lfq}
        """,
    )
    with pytest.raises(ConfigError) as caught:
        read(Run, path)
    assert str(caught.value) == (
        f"{path} has 4 problem(s):\n"
        "  precison: no such key; did you mean 'precision'?\n"
        "  optimizer.beta: no such key; did you mean 'betas'?\n"
        "  optimizer.lr: expected float, got 'fast'\n"
        "  quantizer.kind: expected 'vq' or 'fsq', got 'lfq'"
    )


def test_a_section_that_refuses_its_values_is_named_and_the_others_are_still_checked(tmp_path):
    path = write(tmp_path, "quantizer: {kind: fsq, levels: [8, 1]}\nweights: {l1: much}")
    assert problems(Run, path) == [
        "quantizer: levels must name at least 2 steps for each channel, got (8, 1)",
        "weights.l1: expected float, got 'much'",
    ]
    assert problems(Run, write(tmp_path, "steps: 0")) == ["steps must be at least 1, got 0"]


@pytest.mark.parametrize(
    ("override", "attribute", "expected"),
    [
        ("optimizer.lr=1e-4", lambda run: run.optimizer.lr, 1e-4),
        ("optimizer.lr=1", lambda run: run.optimizer.lr, 1.0),
        ("optimizer.lr=.5", lambda run: run.optimizer.lr, 0.5),
        ("steps=1e5", lambda run: run.steps, 100_000),
        ("steps=250_000", lambda run: run.steps, 250_000),
        ("shuffle=False", lambda run: run.shuffle, False),
        ("name=on", lambda run: run.name, "on"),
        ("name=no", lambda run: run.name, "no"),
        ("name=12:30", lambda run: run.name, "12:30"),
        ("name=010", lambda run: run.name, "010"),
        ("name=2024-01-31", lambda run: run.name, "2024-01-31"),
        ("name='7'", lambda run: run.name, "7"),
        ("name=a=b", lambda run: run.name, "a=b"),
        ("note=null", lambda run: run.note, None),
        ("note=", lambda run: run.note, None),
        ("folder=a/b", lambda run: run.folder, Path("a/b")),
        ("window=auto", lambda run: run.window, "auto"),
        ("window=16", lambda run: run.window, 16),
        ("optimizer.betas=[0, 0.9]", lambda run: run.optimizer.betas, (0.0, 0.9)),
        ("quantizer={kind: fsq, levels: [4, 4]}", lambda run: run.quantizer.levels, (4, 4)),
        ("weights.l1=2", lambda run: run.weights, {"l1": 2.0}),
        ("weights={on: 2}", lambda run: run.weights, {"on": 2.0}),
        ("weights={7: 2, true: 3}", lambda run: run.weights, {"7": 2.0, "true": 3.0}),
    ],
)
def test_a_field_takes_what_it_says(empty, override, attribute, expected):
    value = attribute(read(Run, empty, [override]))
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("shuffle=on", "shuffle: expected true or false, got 'on'"),
        ("shuffle=1", "shuffle: expected true or false, got 1"),
        ("steps=true", "steps: expected int, got true"),
        ("steps=2.5", "steps: expected int, got 2.5"),
        ("steps=010", "steps: expected int, got '010'"),
        ("steps=12:30", "steps: expected int, got '12:30'"),
        ("steps=0x10", "steps: expected int, got '0x10'"),
        ("steps=", "steps: expected int, got nothing"),
        ("optimizer.lr='1e-4'", "optimizer.lr: expected float, got '1e-4'"),
        ("optimizer.lr=.nan", "optimizer.lr: expected float, got '.nan'"),
        ("optimizer.lr=yes", "optimizer.lr: expected float, got 'yes'"),
        ("name=7", "name: expected str, got 7; quote it to make it text"),
        ("precision=fp16", "precision: expected 'fp32' or 'bf16', got 'fp16'"),
        ("window=all", "window: expected int or 'auto', got 'all'"),
        ("optimizer=fast", "optimizer: expected a section of keys and values, got 'fast'"),
        ("optimizer=", "optimizer: expected a section of keys and values, got nothing"),
        ("optimizer.betas=0.9", "optimizer.betas: expected a list of 2, got 0.9"),
        ("optimizer.betas=[0.9]", "optimizer.betas: expected 2 values, got 1: [0.9]"),
        ("optimizer.betas=[0.9, high]", "optimizer.betas[1]: expected float, got 'high'"),
        ("quantizer={kind: fsq, levels: 8}", "quantizer.levels: expected a list of int, got 8"),
        ("average.lr=fast", "average.lr: expected float, got 'fast'"),
        ("quantizer.kind=[vq]", "quantizer.kind: expected 'vq' or 'fsq', got ['vq']"),
        ("optimiser.lr=1", "optimiser: no such key; did you mean 'optimizer'?"),
        ("optimizer.zzz=1", "optimizer.zzz: no such key; keys here: lr, betas"),
        ("steps", "--set steps: expected path.to.field=value"),
        ("optimizer..lr=1", "--set optimizer..lr=1: expected path.to.field=value"),
        ("weights={l1: 1, l1: 2}", "--set weights={l1: 1, l1: 2}: line 1: 'l1' is given already on line 1"),
    ],
)
def test_what_a_field_does_not_say_is_refused(empty, override, problem):
    assert problems(Run, empty, override) == [problem]


def test_a_value_that_is_no_yaml_is_a_problem_of_its_override(empty):
    first, second = problems(Run, empty, "optimizer.betas=[1,", "steps=many")
    assert first.startswith("--set optimizer.betas=[1,: line 1: ")
    assert second == "steps: expected int, got 'many'"


def test_missing_fields_are_named_and_the_first_field_chooses_the_class(tmp_path):
    runs = Run | OtherRun
    assert problems(runs, write(tmp_path, "task: prior\nstep: 3")) == [
        "step: no such key; did you mean 'steps'?",
        "data: missing, expected str",
    ]
    assert problems(runs, write(tmp_path, "steps: 3")) == ["task: expected 'vqgan' or 'prior', but it is missing"]
    assert read(runs, write(tmp_path, "task: prior\ndata: here")) == OtherRun("here")
    assert read(runs, write(tmp_path, "task: vqgan")) == Run()


def test_a_section_keeps_the_defaults_of_its_field_not_of_its_class(tmp_path):
    run = read(Run, write(tmp_path, "optimizer: {betas: [0.5, 0.9]}"))
    assert run.optimizer == Adam(lr=3e-4, betas=(0.5, 0.9))
    assert read(Run, write(tmp_path, "quantizer: {codes: 7}")).quantizer == Vector(codes=7)


def test_later_layers_win_maps_merge_and_lists_replace(tmp_path):
    write(tmp_path, "steps: 5\noptimizer: {lr: 1, betas: [0, 0.5]}\nweights: {a: 1, b: 2}", "base.yaml")
    write(tmp_path, "steps: 6\nname: second", "second.yaml")
    path = write(tmp_path, "extends: [base.yaml, second.yaml]\noptimizer: {betas: [0, 0.9]}\nweights: {b: 3}")
    run = read(Run, path, ["weights.c=4"])
    assert (run.steps, run.name) == (6, "second")
    assert run.optimizer == Adam(lr=1.0, betas=(0.0, 0.9))
    assert run.weights == {"a": 1.0, "b": 3.0, "c": 4.0}


def test_a_parent_is_found_beside_its_child_wherever_the_command_runs(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    write(tmp_path, "steps: 7", "base.yaml")
    write(tmp_path / "deep", "extends: ../base.yaml", "middle.yaml")
    path = write(tmp_path, "extends: deep/middle.yaml")
    monkeypatch.chdir("/")
    assert read(Run, path).steps == 7


@pytest.mark.parametrize("base", ["quantizer: {codes: 7}", "quantizer: {kind: vq, codes: 7}"])
def test_no_key_of_the_old_kind_lingers(tmp_path, base):
    write(tmp_path, base, "base.yaml")
    child = write(tmp_path, "extends: base.yaml\nquantizer: {kind: fsq, weight: 2}")
    assert read(Run, child).quantizer == FiniteScalar(weight=2.0)
    plain = write(tmp_path, "extends: base.yaml")
    assert read(Run, plain, ["quantizer.kind=fsq"]).quantizer == FiniteScalar()
    assert read(Run, plain, ["quantizer.kind=vq"]).quantizer == Vector(codes=7)
    for order in (["quantizer.kind=fsq", "quantizer.weight=2"], ["quantizer.weight=2", "quantizer.kind=fsq"]):
        assert read(Run, plain, order).quantizer == FiniteScalar(weight=2.0)


def test_a_circle_of_parents_is_refused_with_its_chain(tmp_path):
    write(tmp_path, "extends: c.yaml", "b.yaml")
    write(tmp_path, "extends: b.yaml", "c.yaml")
    path = write(tmp_path, "extends: b.yaml", "a.yaml")
    assert problems(Run, path) == ["extends: goes round in a circle: b.yaml -> c.yaml -> b.yaml"]
    diamond = write(tmp_path, "extends: [left.yaml, right.yaml]", "top.yaml")
    for side in ("left.yaml", "right.yaml"):
        write(tmp_path, "extends: base.yaml", side)
    write(tmp_path, "steps: 4", "base.yaml")
    assert read(Run, diamond).steps == 4


def test_a_bare_name_is_looked_up_among_the_packaged_configs(tmp_path, monkeypatch):
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    write(packaged, "steps: 11", "vqgan_tiny.yaml")
    monkeypatch.setattr(config, "PACKAGED", packaged)
    assert read(Run, "vqgan_tiny").steps == 11
    assert read(Run, write(tmp_path, "extends: vqgan_tiny.yaml")).steps == 11
    (problem,) = problems(Run, "vqgan_tyni.yaml")
    assert problem == "no such file, and no packaged config of that name; did you mean 'vqgan_tiny.yaml'?"
    assert "did you mean 'run.yaml'" in problems(Run, tmp_path / "runn.yaml")[0]


def test_repeated_keys_are_refused_with_both_lines_wherever_they_are(tmp_path):
    write(tmp_path, "name: base\nname: again", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\noptimizer:\n  lr: 1\n  betas: [0, 1]\n  lr: 2\nstep: 1")
    assert problems(Run, path) == [
        "run.yaml line 5: 'lr' is given already on line 3",
        "base.yaml line 2: 'name' is given already on line 1",
        "step: no such key; did you mean 'steps'?",
    ]


def test_yaml_anchors_and_merges_work_and_own_keys_win(tmp_path):
    path = write(tmp_path, "optimizer: &base {lr: 1, betas: [0, 1]}\naverage: {<<: *base, lr: 2}")
    assert read(Run, path).average == Adam(lr=2.0, betas=(0.0, 1.0))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "expected keys and values, got nothing"),
        ("- 1", "expected keys and values, got [1]"),
        ("steps: 1\nname: [a", "line 2: "),
        ("steps: 1\n---\nsteps: 2", "line 2: "),
        ("name: !!python/object:os.system x", "line 1: "),
        ("name: &x [*x]", "line 1: an alias of something that it is inside of"),
        ("extends: 3", "extends: expected a file name or a list of them, got 3"),
        ("extends: gone.yaml", "no such file"),
        ("name: \x01", "unacceptable character"),
    ],
)
def test_a_file_that_is_no_config_says_where_and_why(tmp_path, text, part):
    assert part in problems(Run, write(tmp_path, text))[0]


def test_a_file_that_cannot_be_read_is_told_as_such(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    assert "cannot be read" in problems(Run, tmp_path / "latin.yaml")[0]
    assert "no such file" in problems(Run, tmp_path)[0]


AWKWARD = [
    "010",
    "on",
    "1e-4",
    "1_000",
    "~",
    "",
    "null",
    "12:30",
    "- a",
    "a: b",
    "# c",
    "é\n\tx",
    "<<",
    "=",
    "2024-01-31",
]


@pytest.mark.parametrize("name", AWKWARD)
def test_reading_what_was_dumped_gives_the_same(tmp_path, name):
    run = Run(
        name=name,
        note=None if name == "on" else name,
        optimizer=Adam(lr=1e-05),
        quantizer=FiniteScalar(levels=(8, 6), weight=float("inf")),
        weights={name: 1e22, "b": -0.1},
        window=4,
        average=Adam(),
    )
    path = tmp_path / "resolved.yaml"
    path.write_text(dump(run), encoding="utf-8")
    assert read(Run, path) == run
    assert from_mapping(Run, to_mapping(run)) == run


def test_a_dump_is_yaml_that_others_read_too_with_every_default_in_the_order_of_the_fields():
    text = dump(Run())
    assert list(yaml.safe_load(text)) == list(Run.__dataclass_fields__)
    assert "betas: [0.9, 0.95]" in text
    assert json.loads(json.dumps(to_mapping(Run()))) == to_mapping(Run())


def test_from_mapping_is_as_strict_as_a_file():
    with pytest.raises(ConfigError, match="1 problem") as caught:
        from_mapping(Run, {"stepz": 3}, "config.json")
    assert caught.value.problems == ("stepz: no such key; did you mean 'steps'?",)


def test_differences_name_every_changed_value_once():
    assert differences(Run(), Run()) == []
    changed = Run(steps=20, optimizer=Adam(lr=5e-4), quantizer=FiniteScalar(), average=Adam(lr=1.0))
    assert differences(Run(), changed) == [
        "steps: 10 -> 20",
        "optimizer.lr: 0.0003 -> 0.0005",
        "quantizer.kind: 'vq' -> 'fsq'",
        "quantizer.codes: 1024 -> absent",
        "quantizer.levels: absent -> [8, 8, 8]",
        "quantizer.weight: absent -> 1.0",
        "average: nothing -> {'lr': 1.0, 'betas': [0.9, 0.95]}",
    ]


def test_a_literal_takes_its_own_values_only():
    @dataclass(frozen=True)
    class Version:
        version: Literal[1, 2] = 1

    assert from_mapping(Version, {"version": 2}) == Version(2)
    for alike in (True, 1.0, "1"):
        with pytest.raises(ConfigError, match="expected 1 or 2"):
            from_mapping(Version, {"version": alike})


def test_a_schema_that_cannot_work_is_the_programmers_error(tmp_path):
    @dataclass(frozen=True)
    class Lists:
        values: list[int] = field(default_factory=list)

    with pytest.raises(TypeError, match="list"):
        from_mapping(Lists, {"values": [1]})
    with pytest.raises(TypeError, match="distinguished"):
        from_mapping(Adam | Lists, {"lr": 1})


def laughs(levels: int) -> str:
    """Lists of nine aliases each of the list before."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


UNFOLDING = {
    "aliases": (laughs(9), "more than 20000 values, aliases unfolded"),
    "merges": ("a: &a {x: 1, y: 2}\n" + "\n".join(
        f"{new}: &{new} {{<<: [{', '.join(['*' + old] * 9)}]}}" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ), "more than 20000 values"),
    "keys": ("\n".join(f"k{n}: 1" for n in range(11_000)), "more than 20000 values"),
    "lists": ("name: " + "[" * 5000 + "]" * 5000, "nested deeper than 64 levels"),
    "maps": ("name: " + "{a: " * 5000 + "}" * 5000, "nested deeper than 64 levels"),
    "lines": ("\n".join(" " * n + "a:" for n in range(200)), "nested deeper than 64 levels"),
    "circle": ("name: &a {b: *a}", "an alias of something that it is inside of"),
    "bytes": ("name: " + "x" * 1_000_000, "more than the 1000000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "part"), UNFOLDING.values(), ids=UNFOLDING)
def test_what_unfolds_to_too_much_is_refused_before_it_does(tmp_path, text, part):
    assert part in problems(Run, write(tmp_path, text))[0]


@pytest.mark.parametrize("name", ["aliases", "lists", "circle"])
def test_an_override_has_the_same_limits(tmp_path, name):
    text, part = UNFOLDING[name]
    value = text.partition("name: ")[2] or "{" + text.replace("\n", ", ") + "}"
    assert part in problems(Run, write(tmp_path, "steps: 1"), f"name={value}")[0]


def test_files_that_extend_each_other_twice_are_not_read_without_end(tmp_path):
    for n in range(30):
        write(tmp_path, f"extends: [c{n + 1}.yaml, c{n + 1}.yaml]", f"c{n}.yaml")
    write(tmp_path, "steps: 1", "c30.yaml")
    assert "reads more than 100 files" in problems(Run, tmp_path / "c0.yaml")[0]


def test_an_override_of_endless_depth_is_refused(tmp_path):
    assert "expected path.to.field=value" in problems(Run, write(tmp_path, "steps: 1"), "a." * 5000 + "b=1")[0]
