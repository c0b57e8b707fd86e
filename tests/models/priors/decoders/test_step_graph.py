"""A step becomes a graph on CUDA alone; here CUDA is played, and the graph repeats what was called when it recorded."""

import contextlib

import pytest
import torch

from smalti.models.priors.decoders import step_graph
from smalti.models.priors.decoders.step_graph import StepGraph


class Played(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


class Recording:
    """A CUDA graph that repeats its recorded function, writing to the same output."""

    def __init__(self):
        self.repeated = 0

    def replay(self):
        self.repeated += 1
        self.output.copy_(self.function(*self.inputs))


@pytest.fixture
def cuda(monkeypatch):
    made = []

    @contextlib.contextmanager
    def graph(recording, capture_error_mode):
        assert capture_error_mode == "thread_local"
        made.append(recording)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream of the caller")
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return made


def played(values):
    return torch.tensor(values).as_subclass(Played)


def test_a_step_on_a_cpu_is_called_as_it_is():
    calls = []
    step = StepGraph(lambda x: calls.append(1) or x + 1)
    assert [step(torch.tensor(float(number))).item() for number in range(5)] == [1, 2, 3, 4, 5] and len(calls) == 5


def test_a_step_on_cuda_is_recorded_once_and_repeated_with_every_calls_own_inputs(cuda):
    function = lambda x, y: x * 2 + y  # noqa: E731 (recorded by identity)
    step, found = StepGraph(function), []
    for number in range(6):
        if number == step_graph.EAGER_CALLS:
            original = step._capture

            def capture(inputs, original=original):
                original(inputs)
                step._graph.function, step._graph.inputs, step._graph.output = function, step._inputs, step._output

            step._capture = capture
        found.append(step(played([float(number)]), played([1.0])).item())
    assert found == [1, 3, 5, 7, 9, 11]
    assert len(cuda) == 1 and cuda[0].repeated == 4


def test_a_step_that_cannot_be_recorded_stays_as_it_is_and_that_is_said(cuda, monkeypatch):
    @contextlib.contextmanager
    def refused(recording, capture_error_mode):
        raise RuntimeError("operation not permitted when stream is capturing")
        yield

    monkeypatch.setattr(torch.cuda, "graph", refused)
    streams = []
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    step = StepGraph(lambda x: x + 1)
    for number in range(2):
        step(played([float(number)]))
    with pytest.warns(UserWarning, match="without a CUDA graph.*not permitted"):
        assert step(played([2.0])).item() == 3
    assert step(played([3.0])).item() == 4
    assert streams == ["the stream of the caller"]
