"""A step becomes a graph on CUDA alone; here CUDA is played, and the graph repeats what was called when it recorded."""

import contextlib

import pytest
import torch

from smalti.models.priors.decoders import step_graph
from smalti.models.priors.decoders.step_graph import StepGraph

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Recording:
    """A CUDA graph that repeats what was called while it recorded."""

    def replay(self):
        self.called()


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


def test_a_step_on_a_cpu_is_called_as_it_is():
    calls = []
    step = StepGraph(lambda: calls.append(1), CPU)
    for number in range(5):
        step()
        assert len(calls) == number + 1


def test_a_step_on_cuda_is_recorded_once_and_repeated_from_then_on(cuda, monkeypatch):
    calls = []

    def function():
        if len(cuda) == 1 and not hasattr(cuda[0], "called"):  # recorded: nothing is done
            cuda[0].called = lambda: calls.append("repeated")
        else:
            calls.append("called")

    step = StepGraph(function, GPU)
    for _ in range(6):
        step()
    assert calls == ["called"] * step_graph.EAGER_CALLS + ["repeated"] * (6 - step_graph.EAGER_CALLS)
    assert len(cuda) == 1


def test_a_step_that_cannot_be_recorded_stays_as_it_is_and_that_is_said(cuda, monkeypatch):
    @contextlib.contextmanager
    def refused(recording, capture_error_mode):
        raise RuntimeError("operation not permitted when stream is capturing")
        yield

    monkeypatch.setattr(torch.cuda, "graph", refused)
    streams, calls = [], []
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    step = StepGraph(lambda: calls.append(1), GPU)
    for _ in range(2):
        step()
    with pytest.warns(UserWarning, match="without a CUDA graph.*not permitted"):
        step()
    step()
    assert len(calls) == 4 and streams == ["the stream of the caller"]
