"""Who may import whom, so that mathematics knows no files and every dependency has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import smalti

ROOT = Path(smalti.__file__).parent
TOP = {
    "models": {"models"},
    "trainer": {"trainer", "models"},
    "launch": {"launch", "trainer", "models", "configs"},
    "configs": set(),
}
# The arrows inside models and trainer, a room each; a room may import itself too.
LAYERS = {"models/layers", "models/bounds", "models/pixel_range"}
GROUND = {
    "trainer/files",
    "trainer/schema",
    "trainer/keyed_random",
    "trainer/bounded_json",
    "trainer/exit_code",
    "trainer/distributed",
}
SHARDS = {"trainer/images", "trainer/shards"}
SHARED = {*SHARDS, "trainer/data", "trainer/checkpoint", "trainer/config", "trainer/training"}
ROOMS: dict[str, set[str]] = {
    "models/__init__": set(),
    "models/bounds": set(),
    "models/pixel_range": set(),
    "models/layers": LAYERS,
    "models/transformer": LAYERS,
    "models/conditions": LAYERS,
    "models/quantizers": LAYERS,
    "models/discriminators": LAYERS,
    "models/losses": LAYERS,
    "models/metrics": LAYERS,
    "models/vqgan": {*LAYERS, "models/quantizers"},
    "models/priors": {*LAYERS, "models/transformer", "models/losses", "models/conditions"},
    "models/sampling": {*LAYERS, "models/priors", "models/conditions"},
    "trainer/__init__": set(),
    "trainer/files": set(),
    "trainer/keyed_random": set(),
    "trainer/bounded_json": {"trainer/files"},
    "trainer/schema": set(),
    "trainer/exit_code": set(),
    "trainer/distributed": {"trainer/schema", "trainer/exit_code"},
    "trainer/config": GROUND,
    "trainer/images": GROUND,
    "trainer/frozen_networks": GROUND,
    "trainer/shards": {*GROUND, "trainer/images"},
    "trainer/data": {*GROUND, *SHARDS},
    "trainer/checkpoint": {*GROUND, "trainer/config"},
    "trainer/training": {*GROUND, "trainer/data", "trainer/checkpoint"},
    "trainer/prepare": {
        *GROUND,
        *SHARDS,
        "trainer/data",
        "trainer/checkpoint",
        "trainer/config",
        "trainer/frozen_networks",
    },
    "trainer/vqgan": {*GROUND, *SHARED, "trainer/frozen_networks"},
    "trainer/editing": {*GROUND, "trainer/images", "trainer/checkpoint", "trainer/sampling"},
    "trainer/prior": {*GROUND, *SHARED, "trainer/editing", "trainer/frozen_networks"},
    "trainer/sampling": {*GROUND, *SHARDS, "trainer/data", "trainer/checkpoint", "trainer/frozen_networks"},
    "trainer/evaluation": {
        *GROUND,
        *SHARED,
        "trainer/vqgan",
        "trainer/prior",
        "trainer/sampling",
        "trainer/jobs",
        "trainer/frozen_networks",
    },
    "trainer/exchange": {*GROUND, "trainer/checkpoint", "trainer/config"},
    "trainer/jobs": {*GROUND, *SHARED, "trainer/vqgan", "trainer/prior"},
    "trainer/reporting": {*GROUND, *SHARED, "trainer/vqgan", "trainer/prior", "trainer/jobs"},
    "trainer/planning": {*GROUND, *SHARED, "trainer/vqgan", "trainer/prior", "trainer/jobs"},
}
HOMES = {
    "deepspeed": "trainer/distributed/",
    "wandb": "trainer/training/wandb_logger.py",
    "yaml": "trainer/config.py",
    "gradio": "launch/edit/page.py",
}
MODELS_KNOW_NOTHING_OF = {"os", "io", "pathlib", "time", "json", "socket", "subprocess", "PIL", "torch.distributed"}
MOST_MODULES, MOST_LINES, MOST_AT_THE_TOP = 14, 350, 6


def files() -> Iterator[tuple[str, ast.Module]]:
    for folder in TOP:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def imported(name: str, module: ast.AST) -> Iterator[str]:
    """The absolute dotted names that a file imports, wherever in it; ours begin with ``smalti.``."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["smalti", *name.split("/")[: -node.level]]
                base = ".".join([*above, *filter(None, [base])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


FILES = list(files())
NAMES = {name for name, _ in FILES}


def ours(name: str, module: ast.AST) -> set[str]:
    """Our files that a file imports."""
    paths = ["/".join(target.split(".")[1:]) for target in imported(name, module) if target.startswith("smalti.")]
    return {file for path in paths for file in (f"{path}.py", f"{path}/__init__.py") if file in NAMES} - {name}


def room(name: str) -> str:
    """The folder of a file in models or trainer, or the file itself where it lies at their top."""
    return "/".join(name.removesuffix(".py").split("/")[:2])


def refused(name: str, target: str) -> bool:
    """Whether a file of ours may not import another."""
    here, there = name.split("/")[0], target.split("/")[0]
    if there not in TOP[here]:
        return True
    return here == there != "launch" and room(target) not in {room(name), *ROOMS[room(name)]}


@pytest.mark.parametrize(("name", "module"), FILES, ids=[name for name, _ in FILES])
def test_a_file_imports_only_what_its_room_may(name: str, module: ast.Module):
    for target in sorted(ours(name, module)):
        if target not in ("models/__init__.py", "trainer/__init__.py"):
            assert not refused(name, target), f"{name} imports {target}"
    for target in imported(name, module):
        for package, home in HOMES.items():
            assert target.split(".")[0] != package or name.startswith(home), f"{name}: {package}'s only door is {home}"
        if name.startswith("models/"):
            assert not any(target == known or target.startswith(f"{known}.") for known in MODELS_KNOW_NOTHING_OF), (
                f"{name} imports {target}"
            )


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("trainer/vqgan/task.py", "trainer/prior/config.py"),
        ("trainer/prior/task.py", "trainer/vqgan/task.py"),
        ("trainer/distributed/ranks.py", "trainer/files.py"),
        ("trainer/images/decode.py", "trainer/shards/index.py"),
        ("trainer/jobs/run.py", "trainer/planning/plan.py"),
        ("trainer/files.py", "launch/train.py"),
        ("models/priors/gpt.py", "models/sampling/sampler.py"),
        ("models/vqgan/blocks.py", "trainer/files.py"),
    ],
)
def test_an_arrow_that_is_not_in_the_table_is_refused(name: str, target: str):
    assert {name, target} <= NAMES and refused(name, target)


def test_no_file_imports_itself_through_others():
    arrows = {name: ours(name, module) for name, module in FILES}
    while leaves := {name for name, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {name: targets for name, targets in arrows.items() if name not in leaves}
    assert not arrows, f"in circles, or above one: {', '.join(sorted(arrows))}"


@pytest.mark.parametrize(("name", "module"), FILES, ids=[name for name, _ in FILES])
def test_imports_within_the_package_are_relative(name: str, module: ast.Module):
    for node in ast.walk(module):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        assert not any(n.split(".")[0] == "smalti" for n in names), name


@pytest.mark.parametrize(("name", "module"), FILES, ids=[name for name, _ in FILES])
def test_our_own_names_are_imported_for_real(name: str, module: ast.Module):
    for node in ast.walk(module):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            assert not ours(name, node), f"{name} imports what is ours for the type checker alone"


def test_every_room_has_its_arrows_and_every_folder_its_sentence():
    assert {room(name) for name in NAMES if name.startswith(("models/", "trainer/"))} - ROOMS.keys() == set()
    for folder in {Path(name).parent for name in NAMES}:
        assert ast.get_docstring(dict(FILES)[f"{folder}/__init__.py"]), folder


def test_rooms_and_files_stay_small():
    assert len([name for name in NAMES if name.startswith("trainer/") and name.count("/") == 1]) <= MOST_AT_THE_TOP
    for folder in {Path(name).parent for name in NAMES}:
        modules = [name for name in NAMES if Path(name).parent == folder and not name.endswith("__init__.py")]
        assert len(modules) <= MOST_MODULES, folder
    for name in NAMES:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= MOST_LINES, name


def test_webdataset_has_one_door():
    users = [name for name, module in FILES if any(t.split(".")[0] == "webdataset" for t in imported(name, module))]
    assert len(users) <= 1, users


def test_every_door_is_used():
    for package, home in HOMES.items():
        inside = [module for name, module in FILES if name.startswith(home)]
        assert any(target.split(".")[0] == package for module in inside for target in imported(home, module))
