"""Dropout and spline regularisation: their formulas, their gradients, and what they do not depend on."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from pipeline.fit.engine import Epoch, PlainEngine
from pipeline.fit.engines import choose_engine
from pipeline.fit.extras import Dropout, SplinePenalty, spline_penalty
from pipeline.fit.optimiser import PackedAdamW
from pipeline.fit.predict import FirstLayer
from pipeline.fit.step import TrainingStep
from pipeline.heads.families import PACKABLE, build_network
from pipeline.heads.forward import expand, layer_forward, layer_tensors, linear, network_forward
from pipeline.heads.initialization import stack, start
from pipeline.heads.resolve import resolve

CPU = torch.device("cpu")
HEADS_IN_PACK, ROWS, INPUTS = 3, 9, 7


def pack(family, seeds=range(HEADS_IN_PACK), **options):
    options = {"hidden": (5, 4)} | options
    configs = [resolve(family, seed=seed, features="mean", options=options) for seed in seeds]
    network = build_network(configs[0], INPUTS, 2)
    return configs, network, stack([start(config, network) for config in configs])


def ones(value=1.0):
    return torch.full((HEADS_IN_PACK,), value)


def test_penalty_is_efficient_kans():
    package = importlib.util.find_spec("kan_gpt")
    file = Path(package.submodule_search_locations[0]) / "efficient_kan" / "model.py"
    spec = importlib.util.spec_from_file_location("efficient_kan_model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    peer = module.KANLinear(6, 4).double()
    with torch.no_grad():
        peer.spline_weight.copy_(torch.randn(4, 6, 8))
    expected = peer.regularization_loss(0.3, 0.7)
    expected_gradient = torch.autograd.grad(expected, peer.spline_weight)[0]
    ours = peer.spline_weight.detach().permute(1, 2, 0).unsqueeze(0).clone().requires_grad_()
    found = spline_penalty(ours, *torch.tensor([[0.3], [0.7]], dtype=torch.float64))
    torch.testing.assert_close(found[0], expected.detach(), rtol=1e-12, atol=0)
    gradient = torch.autograd.grad(found.sum(), ours)[0][0].permute(2, 0, 1)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)


def test_penalty_of_exact_zeros_is_its_limit():
    spline = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    spline[0, 1, :, 0] = 0  # one edge
    spline[1] = 0  # every edge of a head
    spline.requires_grad_()
    found = spline_penalty(spline, torch.zeros(2).double(), torch.ones(2).double())
    share = spline[0].detach().abs().mean(1)
    share = share[share > 0] / share.sum()
    torch.testing.assert_close(found.detach(), torch.stack([-(share * share.log()).sum(), torch.tensor(0.0)]).double())
    gradient = torch.autograd.grad(found.sum(), spline)[0]
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    assert not gradient[0, 1, :, 0].any()
    assert gradient[0, 0].abs().min() > 0


def test_penalty_gradcheck():
    spline = torch.randn(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.5, 0.1]).double(), torch.tensor([0.2, 2.0]).double()
    assert torch.autograd.gradcheck(lambda spline: spline_penalty(spline, *weights), (spline,))


@pytest.mark.parametrize("family", ["effi_kan", "fast_kan", "cheby_kan", "ensemble_kan"])
def test_a_steps_gradients_hold_the_penalty_of_every_layer(family):
    configs, network, tensors = pack(family, spline_l1=0.2, spline_entropy=0.4)
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    x = torch.randn(HEADS_IN_PACK, ROWS, INPUTS, dtype=torch.float64)
    targets, weights = torch.randint(2, (HEADS_IN_PACK, ROWS)), torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
    optimiser = PackedAdamW(tensors, ones(), ones(), ones())
    step = TrainingStep(network, tensors, optimiser, penalty=SplinePenalty(configs, network, CPU))
    losses, found = step.gradients(expand(network.layers[0], x) if network.constant else x, targets, weights)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    output = network_forward(network, x, leaves)
    loss = functional.cross_entropy(output.flatten(0, 1), targets.flatten(), reduction="sum") / ROWS
    torch.testing.assert_close(losses.sum(), loss.detach())
    for index, layer in enumerate(network.layers):
        for head in range(HEADS_IN_PACK):
            width = layer.widths[0]
            spline = leaves[f"layers.{index}.weight"][head, : layer.inputs * width].view(layer.inputs, width, -1)
            size = spline.abs().mean(1)
            share = size / size.sum()
            loss = loss + 0.2 * size.sum() - 0.4 * (share * share.log()).sum()
    expected = torch.autograd.grad(loss, list(leaves.values()))
    for (name, one), other in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("family", [name for name in PACKABLE if name not in ("linear", "wav_kan")])
def test_dropped_units_add_nothing_and_gradients_are_autograds(family, monkeypatch):
    configs, network, tensors = pack(family, dropout=0.4)
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    x = torch.randn(HEADS_IN_PACK, ROWS, INPUTS, dtype=torch.float64)
    targets, weights = torch.randint(2, (HEADS_IN_PACK, ROWS)), torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
    masks, draw = [], Dropout.mask

    def kept(self, layer, rows):
        masks.append(draw(self, layer, rows).double())
        return masks[-1]

    monkeypatch.setattr(Dropout, "mask", kept)
    step = TrainingStep(network, tensors, PackedAdamW(tensors, ones(), ones(), ones()), Dropout(configs, network, CPU))
    losses, found = step.gradients(expand(network.layers[0], x) if network.constant else x, targets, weights)
    found = {name: gradient.clone() for name, gradient in found.items()}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    total, used = 0, iter(masks)
    for chain in network.chains:
        y = layer_forward(network.layers[chain.start], x, layer_tensors(leaves, chain.start))
        for index in chain[1:]:
            own, layer = layer_tensors(leaves, index), network.layers[index]
            mask = next(used)
            blocks = mask.split([layer.inputs] if layer.units else [layer.inputs * w for w in layer.widths], -1)
            per_unit = [block.unflatten(-1, (layer.inputs, -1)) for block in blocks]
            assert all((block == per_unit[0][..., :1]).all() for block in per_unit)  # one draw for all of a unit
            y = linear(layer, expand(layer, y, own) * mask, own)
        total = total + y
    torch.testing.assert_close(masks[0].unique(), torch.tensor([0, 1 / 0.6], dtype=torch.float64))
    expected_losses = functional.cross_entropy(total.flatten(0, 1), targets.flatten(), reduction="none")
    expected_losses = expected_losses.view(HEADS_IN_PACK, ROWS).mean(1)
    torch.testing.assert_close(losses, expected_losses.detach(), rtol=1e-10, atol=1e-12)
    for name, other in zip(leaves, torch.autograd.grad(expected_losses.sum(), list(leaves.values())), strict=True):
        torch.testing.assert_close(found[name], other, rtol=1e-8, atol=1e-10, msg=name)


def trained(seeds, **options):
    configs, network, tensors = pack("effi_kan", seeds, batch_size=4, **options)
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.randn(20, INPUTS, generator=generator), torch.randint(2, (20,), generator=generator)
    engine = PlainEngine(network, tensors, configs, FirstLayer(network, x.numpy(), CPU), targets)
    for number in range(2):
        order = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(number))] * len(configs))
        engine.run(Epoch(order, torch.arange(len(configs)), 4, number, 2))
    return engine.tensors


def test_a_heads_dropout_does_not_depend_on_its_pack():
    alone, together = trained([7], dropout=0.5), trained([3, 7, 9], dropout=0.5)
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor[0], together[name][1], rtol=1e-5, atol=1e-6)
    without = trained([7])
    assert not torch.allclose(without["layers.0.weight"], alone["layers.0.weight"], atol=1e-4)


def test_dropout_keeps_the_expected_share():
    configs, network, _ = pack("mlp", hidden=(4000,), dropout=0.3)
    mask = Dropout(configs, network, CPU).mask(network.layers[1], 5)
    assert (mask == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert mask.mean().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("option", ["dropout", "spline_l1", "spline_entropy"])
def test_other_engines_leave_these_to_the_plain_one(option):
    configs, network, _ = pack("effi_kan", **{option: 0.1})
    assert choose_engine(network, configs[0], CPU) is PlainEngine
