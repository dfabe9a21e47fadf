"""The families of heads, one file each: a file here that defines `FAMILY` is in the registry.

Nothing here imports PyTorch, so that a head can be named, counted and looked up without it.
"""

import itertools
from importlib import import_module
from pkgutil import iter_modules

from pipeline.heads.config import HeadConfig
from pipeline.heads.family import ACTIVATIONS, BASES_OF_BASE, Family
from pipeline.heads.network import OWN_BASES, Branch, LayerSpec, NetworkSpec
from pipeline.heads.pykan import PykanNetwork

__all__ = ["ACTIVATIONS", "BASES_OF_BASE", "FAMILIES", "PACKABLE", "Family", "build_network"]

#: What a trained pool scores a token by (`token_pool`); its splines have the grid that `Grid` has by itself.
SCORES = {"attention": (Branch("identity"),), "kan_attention": (Branch("b_spline"), Branch("silu"))}


def _discover() -> dict[str, Family]:
    families = {entry.name: import_module(f"{__name__}.{entry.name}").FAMILY for entry in iter_modules(__path__)}
    return dict(sorted(families.items(), key=lambda item: item[1].position))


FAMILIES: dict[str, Family] = _discover()
for _family in FAMILIES.values():
    OWN_BASES.update(_family.bases)

#: The families that are trained in packs: all but those with a loop of their own.
PACKABLE: dict[str, Family] = {name: family for name, family in FAMILIES.items() if not family.own_loop}


def build_network(config: HeadConfig, inputs: int, outputs: int) -> NetworkSpec | PykanNetwork:
    """The network of a configuration for an embedding `inputs` wide and `outputs` classes (1 for regression).

    Raises `ConfigError` for an embedding that is too wide for the family.
    """
    family = FAMILIES[config.head]
    widths = (inputs, *family.hidden(config), outputs)
    if family.own_loop:
        return PykanNetwork.checked(widths, config.grid, config.order)
    stacks = [FAMILIES[name] for name in family.stacks] or [family]
    layers = tuple(
        member.layer(member, config, before, after, index == 0)
        for member in stacks
        for index, (before, after) in enumerate(itertools.pairwise(widths))
    )
    scores = SCORES.get(config.token_pool)
    return NetworkSpec(layers, len(stacks), None if scores is None else LayerSpec(inputs, 1, scores))
