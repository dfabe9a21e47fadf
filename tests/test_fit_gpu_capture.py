"""A captured step is not disturbed by what Python throws away meanwhile."""

import contextlib
import gc

import pytest
import torch

from pipeline.fit.gpu.capture import captured


class Waste:
    """In a cycle, so that only the garbage collector gets at it."""

    gone = 0

    def __init__(self, what: object = None) -> None:
        self.what, self.me = what, self

    def __del__(self) -> None:
        Waste.gone += 1


def throw_away() -> None:
    """As many new objects as make the collector run, many times over."""
    for _ in range(50):
        _ = [[] for _ in range(10_000)]


@pytest.fixture
def recorded(monkeypatch):
    """Graphs and captures that do nothing, for a machine without a GPU."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", lambda _graph, stream: contextlib.nullcontext(stream))


@pytest.mark.usefixtures("recorded")
def test_nothing_is_collected_during_a_capture():
    gone = []

    def work() -> None:
        throw_away()
        gone.append(Waste.gone)

    gc.collect()
    before = Waste.gone
    Waste()
    captured(work, None)
    assert gone == [before]
    assert gc.isenabled()
    gc.collect()
    assert Waste.gone == before + 1


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_left_as_it_was_when_a_capture_fails(collects):
    def work() -> None:
        raise RuntimeError("no capture")

    (gc.enable if collects else gc.disable)()
    try:
        with pytest.raises(RuntimeError, match="no capture"):
            captured(work, None)
        assert gc.isenabled() == collects
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_graph_of_an_earlier_pack_is_not_destroyed_during_a_capture():
    stream, numbers = torch.cuda.Stream(), torch.ones(3, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        numbers.mul_(2).add_(-2)
    torch.cuda.synchronize()
    Waste(captured(lambda: numbers.add_(1), stream))

    def work() -> None:
        numbers.add_(1)
        throw_away()

    captured(work, stream).replay()
    torch.cuda.synchronize()
    assert numbers.tolist() == [1, 1, 1]
