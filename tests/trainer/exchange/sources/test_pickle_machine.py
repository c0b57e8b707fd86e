"""A torch file is read without calling anything, and what does not fit together is refused."""

import io
import os
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import torch
from fixtures import published

from smalti.trainer.exchange.sources import pickle_machine, stored_tensors
from smalti.trainer.exchange.sources.pickle_machine import Inert


class Harmful:
    """Unpickled in the ordinary way, it creates a folder."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_come_back_bit_by_bit(tmp_path, dtype):
    base = torch.arange(24).view(4, 6).to(dtype)
    weights = OrderedDict(whole=base, turned=base.t(), part=base[1:3, 2:5], scalar=base[0, 1], none=base[:0])
    stored = stored_tensors.read(saved(tmp_path / "w.pt", weights))
    assert list(stored.tensors) == list(weights) and not stored.beside
    for name, tensor in weights.items():
        assert stored.tensors[name].shape == tensor.shape and stored.tensors[name].dtype == dtype
        assert torch.equal(stored.tensors[name].load(), tensor)


def test_parameters_and_nested_containers_are_understood(tmp_path):
    layer = torch.nn.Linear(3, 2)
    container = {"state_dict": dict(layer.named_parameters()), "epoch": 3, "callbacks": [1, 2]}
    stored = stored_tensors.read(saved(tmp_path / "w.pt", container))
    assert torch.equal(stored.tensors["weight"].load(), layer.weight)
    assert stored.beside == {"epoch": "int", "callbacks": "list of 2"}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_values_are_those_of_the_ordinary_pickle(protocol):
    value = {"a": [1, -300, 2**40, 1.5, None, True], "b": ("x", (), (1,), (1, 2), (1, 2, 3, 4)), "c": {}}
    assert pickle_machine.interpret(pickle.dumps(value, protocol)) == value


def test_a_container_of_a_package_that_is_not_here_is_read(tmp_path):
    state = {"weight": torch.randn(3)}
    stored = stored_tensors.read(published.lightning(tmp_path / "last.ckpt", state))
    assert torch.equal(stored.tensors["weight"].load(), state["weight"])
    assert stored.beside["callbacks"] == "dict of 1" and stored.beside["optimizer_states"] == "list of 1"


def test_what_a_pickle_would_call_is_not_called(tmp_path):
    victim = tmp_path / "created"
    path = saved(tmp_path / "w.pt", {"state_dict": {"weight": torch.ones(2)}, "callbacks": Harmful(victim)})
    with pytest.raises(ValueError, match=r"w.pt is refused: its pickle would call posix.mkdir"):
        stored_tensors.read(path)
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists()  # so the file was a harmful one


def test_an_object_among_the_weights_is_refused(tmp_path):
    pickled = b"\x80\x02}X\x06\x00\x00\x00weightca_package\nWeight\n)Rs."  # a call of a class that is not here
    sound = saved(tmp_path / "sound.pt", {"weight": torch.ones(1)})
    path = rewritten(sound, tmp_path / "w.pt", lambda name, data: (pickled if "data.pkl" in name else data, False))
    with pytest.raises(ValueError, match=r"'weight' among its weights is no tensor but <a_package.Weight, not built>"):
        stored_tensors.read(path)


CALLS = [
    *(b"cposix\nsystem\n", b"cos\nsystem\n", b"cnt\nsystem\n", b"csubprocess\nPopen\n", b"c__builtin__\neval\n"),
    *(
        b"cbuiltins\nexec\n",
        b"cio\nopen\n",
        b"crunpy\nrun_path\n",
        b"cimportlib\nimport_module\n",
        b"cshutil\nrmtree\n",
    ),
]


@pytest.mark.parametrize("named", CALLS)
@pytest.mark.parametrize("call", [b"R", b"\x81"], ids=["REDUCE", "NEWOBJ"])
def test_a_call_that_weights_do_not_need_is_refused(named, call):
    with pytest.raises(ValueError, match="its pickle would call"):
        pickle_machine.interpret(b"\x80\x02" + named + b"X\x02\x00\x00\x00ls\x85" + call + b".")


def test_objects_that_containers_hold_beside_their_weights_are_no_harm():
    held = [Path("x"), Namespace(a=1), defaultdict(list), datetime(2021, 1, 1), {1}, frozenset({2}), partial(int), 1j]
    assert len(pickle_machine.interpret(pickle.dumps(held, 2))) == len(held)


def rewritten(source: Path, target: Path, change) -> Path:
    """A torch file with members changed: ``change`` gets a name and bytes, and gives bytes and a compression."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data, packed = change(name, old.read(name))
            new.writestr(name, data, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    return target


def test_a_zip_that_inflates_is_refused_before_it_is_read(tmp_path):
    path = saved(tmp_path / "w.pt", {"weight": torch.zeros(10_000_000)})
    bomb = rewritten(path, tmp_path / "bomb.pt", lambda name, data: (data, "/data/" in name))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(ValueError, match="is compressed, which torch never does"):
        stored_tensors.read(bomb)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = saved(tmp_path / "w.pt", {"weight": torch.randn(1000)})
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=str(path)):
        stored_tensors.read(path)


def test_a_storage_of_another_size_is_refused(tmp_path):
    path = saved(tmp_path / "w.pt", {"weight": torch.randn(1000)})
    short = rewritten(path, tmp_path / "short.pt", lambda name, data: (data[:40] if "/data/" in name else data, False))
    with pytest.raises(ValueError, match=r"weight needs 4000 bytes .* which has 40"):
        stored_tensors.read(short)


def test_a_tensor_that_spreads_one_number_over_terabytes_is_refused(tmp_path):
    path = saved(tmp_path / "w.pt", {"weight": torch.zeros(1).expand(2**40)})
    with pytest.raises(ValueError, match="does not fit its storage of 1 numbers"):
        stored_tensors.read(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02\x85.",  # a tuple of nothing
        b"\x80\x02}(K\x01u.",  # a key without a value
        b"\x80\x02h\x07.",  # a memory that was never filled
        b"\x80\x02]}K\x01s.",
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",  # a byte array of a terabyte
        b"\x80\x02B" + (2**31 - 1).to_bytes(4, "little") + b"short.",
    ],
)
def test_a_pickle_that_makes_no_sense_is_refused(data):
    with pytest.raises(ValueError):
        pickle_machine.interpret(data)


def test_a_memory_place_of_two_billion_takes_no_memory():
    assert pickle_machine.interpret(b"\x80\x02K\x01r" + (2**31 - 1).to_bytes(4, "little") + b".") == 1


def test_classes_and_functions_become_names_alone():
    buffer = io.BytesIO()
    pickle.dump([Path, print, Path("x")], buffer, 2)
    names = pickle_machine.interpret(buffer.getvalue())
    assert all(isinstance(each, Inert) for each in names) and names[1].name in ("builtins.print", "__builtin__.print")
