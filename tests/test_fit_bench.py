"""What `fit_heads.py bench` compares, and the arithmetic of its document; nothing here measures a speed."""

import copy
import json

import pytest
import torch
from click.testing import CliRunner

import fit_heads
from benchmarks.bench import baselines
from benchmarks.bench import heads as bench
from benchmarks.bench.document import Contestant, document


def test_a_baseline_under_vmap_trains_as_it_does_alone():
    x = torch.randn(64, 5)
    y = (x[:, 0] > 0).long()
    network = baselines.BASELINES["efficient_kan"]((5, 4, 2))
    step, parameters = baselines.stacked(network, 1, x, y, 16)
    before = {name: tensor.clone() for name, tensor in parameters.items()}
    alone = baselines.alone(copied := copy.deepcopy(network), x, y, 16)
    for _ in range(6):
        step()
        alone()
    for name, own in copied.named_parameters():
        torch.testing.assert_close(parameters[name][0], own, rtol=1e-4, atol=1e-5)
        assert not torch.equal(parameters[name], before[name])


class Cell:
    left_out, copies = [{"name": "pykan", "mode": "alone", "why": "not installed"}], [2e9, 1e9, 9e9]

    def __init__(self, batch, *contestants):
        self.widths, self.batch, self.contestants = (768, 64, 2), batch, contestants


def contestant(name, mode, threads, *seconds, size=1000):
    return Contestant(name, mode, 8, threads, size // 24, size, lambda steps: steps, list(seconds))


def test_speedups_are_ratios_of_medians_with_the_threads_that_suit_the_other_side():
    cell = Cell(
        4,
        contestant("effi_kan with scaler", "pack", 2, 1e-6, 9e-6, 2e-6),
        contestant("effi_kan", "pack", 2, 1e-6),
        contestant("efficient_kan", "alone", 2, 30e-6, 50e-6, 40e-6),
        contestant("efficient_kan", "alone", 1, 20e-6),
        contestant("efficient_kan", "vmap", 2, 5e-6),
        contestant("flashkan", "alone", 2),
    )
    found = document([cell], torch.device("cpu"), 2, True, 1.0)
    assert found["speedup_vs_efficient_kan_batch4"] == pytest.approx(10)
    assert found["speedup_vs_efficient_kan_batch4_without_scaler"] == pytest.approx(20)
    assert found["speedup_vs_efficient_kan_batch64"] is None
    assert found["microseconds_per_head_step"] == pytest.approx(2)
    assert [row["speedup_vs_efficient_kan"] for row in found["measured"]] == pytest.approx([10, 20, 0.5, 1, 4])
    first = found["measured"][0]
    assert first["bytes_per_second"] == pytest.approx(1000 / 2e-6)
    assert first["share_of_copy_bandwidth"] == pytest.approx(1000 / 2e-6 / 2e9)
    assert found["left_out"] == [
        {"network": "768-64-2", "batch": 4, "name": "pykan", "mode": "alone", "why": "not installed"}
    ]


def test_the_command_measures_every_cell(monkeypatch):
    monkeypatch.setattr(bench, "CELLS", {((6, 5, 2), 4): 1, ((6, 5, 2), 64): 1})
    monkeypatch.setattr(bench, "LIMIT", {True: 0.5})
    monkeypatch.setattr(bench, "VISIT", {True: 0.001})
    for packs in (bench.PACKS, bench.STACKED):
        monkeypatch.setitem(packs, "cpu", {6: 8})
    monkeypatch.setattr(bench, "BASELINES", {"efficient_kan": baselines.BASELINES["efficient_kan"]})
    monkeypatch.setattr(bench, "_copy", lambda on: 1e9)  # noqa: ARG005
    result = CliRunner().invoke(fit_heads.main, ["bench", "--quick", "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"speedup_vs_efficient_kan_batch4", "speedup_vs_efficient_kan_batch64", "microseconds_per_head_step"} <= set(
        found
    )
    key = {("effi_kan with scaler", "pack"), ("effi_kan", "pack"), ("efficient_kan", "alone")}
    for batch in (4, 64):
        rows = [row for row in found["measured"] if row["batch"] == batch]
        assert key <= {(row["name"], row["mode"]) for row in rows}
        assert all(row["microseconds_per_head_step"] > 0 for row in rows)
    assert "efficient_kan" in CliRunner().invoke(fit_heads.main, ["bench", "--quick", "--device", "cpu"]).stdout
