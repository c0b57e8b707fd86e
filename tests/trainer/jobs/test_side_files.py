"""What a killed run left of its small files goes with the next start, and nothing else does."""

from pathlib import Path

from smalti.trainer.jobs import side_files


def test_unfinished_small_files_are_removed_and_a_users_stay(tmp_path: Path):
    ours = {".ranks.json.part": b'{"step": 3, "data', ".exit-code.part": b"", ".latest.txt.part": b"step-00000004"}
    users = {".arrays.jsonl.part": b"mine", ".other.part": b"", "ranks.json": b'{"step": 3, '}
    for name, data in (ours | users).items():
        (tmp_path / name).write_bytes(data)
    side_files.remove_unfinished(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == users
