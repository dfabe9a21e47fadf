"""The sum of effi_kan, fast_kan and faster_kan, trained together."""

from pipeline.heads.family import SPLINE, Family

__all__ = ["FAMILY"]


FAMILY = Family(
    position=8,
    color="#6d6a00",
    is_kan=True,
    options=(*SPLINE, "update_grid", "spline_scaler", "centres", "sharpness"),
    package_range=None,
    stacks=("effi_kan", "fast_kan", "faster_kan"),
    source="the sum of effi_kan, fast_kan and faster_kan",
    formula="y = effi_kan(x) + fast_kan(x) + faster_kan(x)",
    parameters="effi_kan + fast_kan + faster_kan",
    flops="effi_kan + fast_kan + faster_kan",
    note=(
        "Three whole networks, trained together; the sum is taken of their logits (2 * O operations), not of their"
        " layers."
    ),
)
