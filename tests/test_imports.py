"""Who may import whom, so that mathematics knows no files and every dependency has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import smalti

ROOT = Path(smalti.__file__).parent
ALLOWED = {
    "models": {"models"},
    "trainer": {"trainer", "models"},
    "launch": {"launch", "trainer", "models", "configs"},
    "configs": set(),
}
HOMES = {
    "deepspeed": "trainer/distributed/engine.py",
    "wandb": "trainer/training/wandb_logger.py",
    "yaml": "trainer/config.py",
}
MODELS_KNOW_NOTHING_OF = {"os", "io", "pathlib", "time", "json", "socket", "subprocess", "PIL", "torch.distributed"}


def files() -> Iterator[tuple[str, ast.Module]]:
    for folder in ALLOWED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def imported(name: str, module: ast.Module) -> Iterator[str]:
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


@pytest.mark.parametrize(("name", "module"), FILES, ids=[name for name, _ in FILES])
def test_a_file_imports_only_what_its_folder_may(name: str, module: ast.Module):
    folder = name.split("/")[0]
    for target in imported(name, module):
        parts = target.split(".")
        if parts[0] == "smalti" and len(parts) > 1 and (ROOT / parts[1]).is_dir():
            assert parts[1] in ALLOWED[folder], f"{name} imports {target}"
        for package, home in HOMES.items():
            assert parts[0] != package or name == home, f"{name} imports {package}, whose only door is {home}"
        if folder == "models":
            assert not any(target == known or target.startswith(f"{known}.") for known in MODELS_KNOW_NOTHING_OF), (
                f"{name} imports {target}"
            )


@pytest.mark.parametrize(("name", "module"), FILES, ids=[name for name, _ in FILES])
def test_imports_within_the_package_are_relative(name: str, module: ast.Module):
    for node in ast.walk(module):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        assert not any(n.split(".")[0] == "smalti" for n in names), name


def test_webdataset_has_one_door():
    users = [name for name, module in FILES if any(t.split(".")[0] == "webdataset" for t in imported(name, module))]
    assert len(users) <= 1, users


def test_every_door_is_used():
    for package, home in HOMES.items():
        module = dict(FILES)[home]
        assert any(target.split(".")[0] == package for target in imported(home, module))
