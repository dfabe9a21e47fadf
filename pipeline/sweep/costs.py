"""What stored heads cost, worked out from their configurations: training FLOPs, and KANbeFair's counts beside ours."""

import json
from collections.abc import Iterable
from typing import Any

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.heads.config import HeadConfig
from pipeline.heads.cost import parameters, product_flops, training_flops
from pipeline.heads.families import HEADS, build_network
from pipeline.heads.kanbefair import published_cost
from pipeline.heads.match import COSTS, WIDEST
from pipeline.heads.pykan import LARGEST_WIDTH
from pipeline.sweep.results import Results

__all__ = ["with_costs"]


def _inputs(config: HeadConfig, outputs: int, count: int, likely: int | None) -> int | None:
    """How wide the features are that give a head its number of parameters; `None` where no width does.

    Parameters grow with the width, so one that fits is the only one: `likely` is tried first.
    """
    if likely is not None and parameters(build_network(config, likely, outputs)) == count:
        return likely
    low, high = 1, LARGEST_WIDTH if HEADS[config.head].own_loop else WIDEST
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if parameters(build_network(config, middle, outputs)) < count else (low, middle)
    return low if parameters(build_network(config, low, outputs)) == count else None


def with_costs(results: Results, heads: Iterable[dict[str, Any]], cost: str = COSTS[0]) -> list[dict[str, Any]]:
    """The documents of stored heads with their costs, and with `cost` kanbefair with KANbeFair's counts as well.

    `product_flops` are the matrix products among a head's `flops`, `training_flops` those of one row of a step (see
    `pipeline.heads.cost`); theirs are `kanbefair_parameters` and `kanbefair_flops`. Each is `None` where it cannot be
    known: a cache whose heads all diverged, a head of a version that counted otherwise, a family that KANbeFair has no
    formula for.
    """
    if cost not in COSTS:
        raise UnknownNameError("--cost", cost, COSTS)
    classes, found, widths = results.classes(), {}, {}
    documents = []
    for head in heads:
        shape = {name: value for name, value in head["config"].items() if name != "seed"}
        key = (head["fingerprint"], json.dumps(shape))
        if key not in found:
            place = (head["fingerprint"], head["features"])  # its heads all read features of one width
            widths[place], *found[key] = _costs(head, classes.get(head["fingerprint"]), widths.get(place))
        own, published = found[key]
        documents.append(head | own | (published if cost == "kanbefair" else {}))
    return documents


def _costs(
    head: dict[str, Any], outputs: int | None, likely: int | None
) -> tuple[int | None, dict[str, int | None], dict[str, int | None]]:
    own: dict[str, int | None] = {"product_flops": None, "training_flops": None}
    published: dict[str, int | None] = {"kanbefair_parameters": None, "kanbefair_flops": None}
    try:
        config = HeadConfig.from_json(head["config"])
        inputs = None if outputs is None else _inputs(config, outputs, head["parameters"], likely)
    except (ConfigError, KeyError, TypeError):  # a family or an option of another version: it can still be listed
        inputs = None
    if inputs is not None:
        network = build_network(config, inputs, outputs)
        own = {"product_flops": product_flops(network), "training_flops": training_flops(network, config.batch_size)}
        if theirs := published_cost(config, inputs, outputs):
            published = {"kanbefair_parameters": theirs.parameters, "kanbefair_flops": theirs.flops}
    return inputs, own, published
