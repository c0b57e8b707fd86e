import pytest

from smalti.trainer.files import whole_file, write_whole


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "folder" / "name"
    with whole_file(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "name"
    write_whole(path, b"old")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_who_has_the_old_file_open_goes_on_reading_it(tmp_path):
    path = tmp_path / "name"
    write_whole(path, b"old and long")
    with path.open("rb") as old:
        write_whole(path, b"new")
        assert old.read() == b"old and long"
    assert path.read_bytes() == b"new"
