"""What stored heads cost: FLOPs of training, and KANbeFair's counts beside ours."""

import json
from collections.abc import Iterable
from typing import Any

from pipeline.errors import KanglueError, UnknownNameError
from pipeline.heads.cost import product_flops, training_flops
from pipeline.heads.families import build_network
from pipeline.heads.kanbefair import published_cost
from pipeline.heads.match import COSTS
from pipeline.heads.resolve import read_config
from pipeline.sweep.results import Results

__all__ = ["with_costs"]


def with_costs(results: Results, heads: Iterable[dict[str, Any]], cost: str = COSTS[0]) -> list[dict[str, Any]]:
    """The documents of stored heads with their costs, and with `cost` kanbefair with KANbeFair's counts as well.

    `product_flops` are the matrix products among a head's `flops`, `training_flops` those of one row of a step (see
    `pipeline.heads.cost`); `kanbefair_parameters` and `kanbefair_flops` are KANbeFair's. A count is `None` where this
    version does not know the head's options, or KANbeFair has no formula for its family.
    """
    if cost not in COSTS:
        raise UnknownNameError("`cost`", cost, COSTS)
    outputs = {key: 1 if names is None else len(names) for key, names in results.class_names().items()}
    counted: dict[tuple[str, str], dict[str, int | None]] = {}
    documents = []
    for head in heads:
        shape = {name: value for name, value in head["config"].items() if name != "seed"}
        key = (head["fingerprint"], json.dumps(shape))
        if key not in counted:
            counted[key] = _costs(head, outputs[head["fingerprint"]], cost)
        documents.append(head | counted[key])
    return documents


def _costs(head: dict[str, Any], outputs: int, cost: str) -> dict[str, int | None]:
    counts: dict[str, int | None] = {"product_flops": None, "training_flops": None}
    counts |= {"kanbefair_parameters": None, "kanbefair_flops": None} if cost == "kanbefair" else {}
    try:
        config = read_config(head["config"])
        network = build_network(config, head["inputs"], outputs)
    except (KanglueError, KeyError, TypeError):  # a family or an option of another version: it can still be listed
        return counts
    counts |= {"product_flops": product_flops(network), "training_flops": training_flops(network, config.batch_size)}
    if cost == "kanbefair" and (published := published_cost(config, head["inputs"], outputs)):
        counts |= {"kanbefair_parameters": published.parameters, "kanbefair_flops": published.flops}
    return counts
