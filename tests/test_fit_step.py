"""The hand-written backward pass against autograd, and the packed AdamW against torch's."""

import math

import pytest
import torch
from torch.nn import functional

from pipeline.fit.optimiser import PackedAdamW
from pipeline.fit.step import TrainingStep
from pipeline.heads.families import PACKABLE, build_network
from pipeline.heads.forward import expand, network_forward
from pipeline.heads.initialization import stack, start
from pipeline.heads.resolve import resolve

HEADS_IN_PACK, ROWS, INPUTS = 3, 9, 7


def pack(family, protocol, outputs, hidden=(5, 4), **options):
    """A network and a pack's tensors in float64, away from their start so that every term counts."""
    options |= {"hidden": hidden}
    tensors = []
    for seed in range(HEADS_IN_PACK):
        config = resolve(family, seed=seed, features="pooled", protocol=protocol, options=options)
        network = build_network(config, INPUTS, outputs)
        tensors.append(start(config, network))
    stacked = stack(tensors)
    return network, {n: t.double() + 0.3 * torch.randn(t.shape, dtype=torch.float64) for n, t in stacked.items()}


def constant(value):
    return torch.full((HEADS_IN_PACK,), value)


def hand_written(network, tensors, x, targets, weights):
    """Losses and gradients of `TrainingStep`, which takes the first layer's expansion where it can be ready-made."""
    first = network.layers[0]
    step = TrainingStep(network, tensors, PackedAdamW(tensors, constant(1e-3), constant(0.0), constant(1.0)))
    losses, gradients = step.gradients(expand(first, x) if network.constant else x, targets, weights)
    return losses.clone(), {name: gradient.clone() for name, gradient in gradients.items()}


def by_autograd(network, tensors, x, targets, weights):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    found = network_forward(network, x, leaves)
    if targets.dtype == torch.int64:
        rows = functional.cross_entropy(found.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    else:
        rows = functional.mse_loss(found.squeeze(2), targets, reduction="none")
    losses = (rows * weights).sum(1)
    return losses.detach(), dict(zip(leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True))


@pytest.mark.parametrize("kind", ["two classes", "three classes", "regression"])
@pytest.mark.parametrize("protocol", ["clean", "published"])
@pytest.mark.parametrize("family", PACKABLE)
def test_gradients_are_autograds(family, protocol, kind):
    outputs = {"two classes": 2, "three classes": 3, "regression": 1}[kind]
    network, tensors = pack(family, protocol, outputs)
    x = torch.randn(HEADS_IN_PACK, ROWS, INPUTS, dtype=torch.float64)
    targets = torch.randint(outputs, (HEADS_IN_PACK, ROWS))
    if kind == "regression":
        targets = torch.randn(HEADS_IN_PACK, ROWS, dtype=torch.float64)
    weights = torch.rand(ROWS, dtype=torch.float64)
    weights[-2:] = 0  # rows that only fill a minibatch up
    losses, found = hand_written(network, tensors, x, targets, weights)
    expected_losses, expected = by_autograd(network, tensors, x, targets, weights)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-12, atol=1e-12)
    assert set(found) == set(expected) == set(network.shapes())
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (found[name] - gradient).norm() <= 1e-10 * gradient.norm(), name


@pytest.mark.parametrize("family", ["effi_kan", "faster_kan"])
@pytest.mark.parametrize("hidden", [(), (4,)])
def test_gradients_of_shallow_heads_and_other_grids(family, hidden):
    network, tensors = pack(
        family, "published", 2, hidden, grid=8, order=2, centres=4, grid_range=(-2, 1), sharpness=0.5
    )
    x = torch.randn(HEADS_IN_PACK, ROWS, INPUTS, dtype=torch.float64)
    targets = torch.randint(2, (HEADS_IN_PACK, ROWS))
    weights = torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
    _, found = hand_written(network, tensors, x, targets, weights)
    for name, gradient in by_autograd(network, tensors, x, targets, weights)[1].items():
        assert (found[name] - gradient).norm() <= 1e-10 * gradient.norm(), name


def test_rows_without_weight_do_not_count():
    network, tensors = pack("fast_kan", "clean", 2)
    x = torch.randn(HEADS_IN_PACK, ROWS, INPUTS, dtype=torch.float64)
    targets = torch.randint(2, (HEADS_IN_PACK, ROWS))
    weights = torch.full((ROWS,), 1 / 6, dtype=torch.float64)
    weights[6:] = 0
    whole = hand_written(network, tensors, x, targets, weights)
    part = hand_written(network, tensors, x[:, :6], targets[:, :6], weights[:6])
    torch.testing.assert_close(whole, part, rtol=1e-12, atol=1e-14)


LR = (2e-3, 0.05, 1e-4, 0.3)
DECAY = (0.01, 0.0, 0.5, 0.1)
CLIP = (1.0, 0.05, math.inf, 3.0)
SHAPES = {"layers.0.weight": (6, 5), "layers.0.scaler": (3, 5), "layers.1.weight": (5, 2), "layers.1.bias": (2,)}


def gradient_run(steps, seed=0, dtype=torch.float32):
    """Gradients of four heads for every step, of sizes that are clipped at some steps and not at others."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        size = 10 ** (torch.rand(4, generator=generator) * 3 - 2)
        yield (
            {
                name: (torch.randn(4, *shape, generator=generator) * size.view(-1, *[1] * len(shape))).to(dtype)
                for name, shape in SHAPES.items()
            },
            1 - step / steps,
        )


def packed(tensors):
    return PackedAdamW(tensors, torch.tensor(LR), torch.tensor(DECAY), torch.tensor(CLIP))


def test_packed_adamw_is_torchs_for_every_head():
    torch.manual_seed(0)
    tensors = {name: torch.randn(4, *shape) for name, shape in SHAPES.items()}
    peers = []
    for head in range(4):
        leaves = {name: tensor[head].clone().requires_grad_() for name, tensor in tensors.items()}
        peers.append((leaves, torch.optim.AdamW(leaves.values(), lr=LR[head], weight_decay=DECAY[head])))
    optimiser = packed(tensors)
    clipped = 0
    for gradients, share in gradient_run(100):
        for head, (leaves, peer) in enumerate(peers):
            for name, leaf in leaves.items():
                leaf.grad = gradients[name][head].clone()
            norm = torch.nn.utils.clip_grad_norm_(leaves.values(), CLIP[head])
            clipped += int(norm > CLIP[head])
            peer.param_groups[0]["lr"] = LR[head] * share
            peer.step()
        optimiser.step({name: g.clone() for name, g in gradients.items()}, torch.ones(4), share)
    assert 50 < clipped < 250
    for head, (leaves, _) in enumerate(peers):
        for name, leaf in leaves.items():
            assert (tensors[name][head] - leaf).abs().max() <= 1e-5, (head, name)
    assert optimiser.diverged_at.tolist() == [-1] * 4


@pytest.mark.parametrize("fault", ["nan gradient", "inf gradient", "nan loss", "inf loss"])
def test_a_diverged_head_is_frozen_and_its_neighbours_do_not_notice(fault):
    torch.manual_seed(0)
    begin = {name: torch.randn(4, *shape) for name, shape in SHAPES.items()}
    sound, hurt = ({name: t.clone() for name, t in begin.items()} for _ in range(2))
    one, two = packed(sound), packed(hurt)
    kept = None
    for step, (gradients, share) in enumerate(gradient_run(20)):
        one.step({name: g.clone() for name, g in gradients.items()}, torch.ones(4), share)
        loss = torch.ones(4)
        if step == 7:
            kept = {name: tensor[1].clone() for name, tensor in hurt.items()}
        if step >= 7:
            wrong = math.nan if fault.startswith("nan") else math.inf
            if fault.endswith("loss"):
                loss[1] = wrong
            else:
                gradients["layers.1.weight"][1, 2, 1] = wrong
        two.step(gradients, loss, share)
    assert two.diverged_at.tolist() == [-1, 7, -1, -1]
    for name, tensor in hurt.items():
        assert torch.equal(tensor[1], kept[name])
        others = [0, 2, 3]
        assert torch.equal(tensor[others], sound[name][others])


def test_a_head_that_diverged_once_stays_frozen():
    tensors = {name: torch.ones(4, *shape) for name, shape in SHAPES.items()}
    optimiser = packed(tensors)
    runs = list(gradient_run(6))
    runs[2][0]["layers.1.bias"][3, 0] = math.nan
    for step, (gradients, share) in enumerate(runs):
        if step == 2:
            kept = {name: tensor[3].clone() for name, tensor in tensors.items()}
        optimiser.step(gradients, torch.ones(4), share)
    assert optimiser.diverged_at.tolist() == [-1, -1, -1, 2]
    assert all(torch.equal(tensor[3], kept[name]) for name, tensor in tensors.items())
    assert not torch.equal(tensors["layers.1.bias"][0], torch.ones(2))
