"""Train a small pack with two engines and compare; run as a script, it prints the differences as JSON.

A script, because Triton decides when it is first imported whether its kernels are compiled or interpreted.
"""

import json
import sys

import numpy as np
import torch

from pipeline.fit.engine import Engine, Epoch, PlainEngine
from pipeline.fit.predict import FirstLayer
from pipeline.heads.families import build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.initialization import stack, start
from pipeline.heads.resolve import resolve


def trained(engine: type[Engine], case: dict, **options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses [epochs, heads], outputs [heads, rows, classes] after training, and the steps of divergence [heads].

    `case` has head, protocol, options, inputs, rows, classes (0 for regression), heads, epochs, and may have `lr`.
    """
    configs = [
        resolve(
            case["head"], seed=seed, features="mean", protocol=case["protocol"],
            options={"lr": case.get("lr", [1e-3 * (1 + seed)] * case["heads"])[seed]} | case["options"],
        )
        for seed in range(case["heads"])
    ]  # fmt: skip
    network = build_network(configs[0], case["inputs"], case["classes"] or 1)
    tensors = stack([start(config, network) for config in configs])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case["rows"], case["inputs"], generator=generator) * 0.7
    if case["classes"]:
        targets = torch.randint(0, case["classes"], (case["rows"],), generator=generator)
    else:
        targets = torch.randn(case["rows"], generator=generator)
    source = FirstLayer(network, x.numpy(), torch.device("cpu"))
    running = engine(network, tensors, configs, source, targets, **options)
    losses = []
    for number in range(case["epochs"]):
        orders = [torch.randperm(case["rows"], generator=generator) for _ in configs]
        work = Epoch(
            torch.stack(orders), torch.arange(len(configs)), configs[0].batch_size, number, case["epochs"]
        )  # fmt: skip
        losses.append(running.run(work))
    outputs = network_forward(network, x.expand(len(configs), *x.shape), running.tensors)
    return torch.stack(losses), outputs, running.diverged_at


def difference(engine: type[Engine], case: dict, **options) -> dict[str, float]:
    """Largest differences from the plain engine: of losses, and of outputs relative to their spread."""
    expected, found = trained(PlainEngine, case), trained(engine, case, **options)
    return {
        "loss": float((expected[0] - found[0]).abs().max()),
        "outputs": float((expected[1] - found[1]).abs().max() / expected[1].std()),
    }


if __name__ == "__main__":
    from pipeline.fit.gpu.engine import TritonEngine
    from pipeline.fit.gpu.graphed import GraphedEngine

    torch.set_num_threads(1)
    np.seterr(all="ignore")
    cases = json.loads(sys.argv[1])
    found = [
        difference(GraphedEngine, case) if case.get("graphed")
        else difference(TritonEngine, case, **({"precision": "ieee"} | case.get("tuning", {}))) for case in cases
    ]  # fmt: skip
    print(json.dumps(found))
