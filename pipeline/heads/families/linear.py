"""Softmax regression: the baseline that every other family must beat."""

from pipeline.heads.family import Family, linear

__all__ = ["FAMILY"]


FAMILY = Family(
    position=0,
    color="#6b7280",
    layer=linear,
    hidden=lambda _: (),
    source="softmax regression",
    formula="y = x W + b",
    parameters="D * O + O",
    flops="2 * D * O + O",
    note=("Softmax regression: the baseline that every other family must beat."),
)
