"""The modules that an exported head is made of, in plain PyTorch.

Their source goes into the exported file as it stands here, so each of them must read well alone and need only what
`HEADER` of `pipeline.export.torch_file` imports.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, factorial

import torch
from torch import nn
from torch.nn import functional

from pipeline.heads.network import Grid

__all__ = ["MODULES", "KanLayer", "KnotSpline", "Layer", "Module"]


class Layer(nn.Module):
    """y = [phi_1(z), phi_2(z), ...] W + b for bases phi, where z is the input x [rows, inputs] or its layer norm.

    A scaler [inputs, outputs] multiplies the weights of the first basis. With `units`, the bases' values of an input
    are first summed to one number, with weights of its own (units = inputs) or the same for all inputs (units = 1).
    """

    def __init__(self, inputs, outputs, bases, *, bias=False, scaler=False, normed=(), units=0):
        super().__init__()
        self.bases, self.normed = nn.ModuleList(bases), normed or (False,) * len(bases)
        widths = [basis.width for basis in bases]
        features = inputs if units else inputs * sum(widths)
        self.weight = nn.Parameter(torch.zeros(features, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scaler = nn.Parameter(torch.ones(inputs, outputs)) if scaler else None
        self.unit = nn.Parameter(torch.zeros(units, sum(widths))) if units else None
        self.norm = nn.LayerNorm(inputs) if any(self.normed) else None

    def forward(self, x):
        z = x if self.norm is None else self.norm(x)
        parts = [basis(z if normed else x) for basis, normed in zip(self.bases, self.normed)]
        if self.unit is not None:
            phi = (torch.cat(parts, -1) * self.unit).sum(-1)
        else:
            phi = torch.cat([part.flatten(-2) for part in parts], -1)
        y = phi @ self.scaled_weight()
        return y if self.bias is None else y + self.bias

    def scaled_weight(self):
        if self.scaler is None:
            return self.weight
        width = self.bases[0].width
        first, rest = self.weight.split([len(self.scaler) * width, len(self.weight) - len(self.scaler) * width])
        return torch.cat([first * self.scaler.repeat_interleave(width, 0), rest])


class KanLayer(nn.Module):
    """pykan's layer: y_j = sum_i mask_ij (base_ij silu(x_i) + sp_ij sum_k coef_ijk B_ik(x_i)).

    The B-splines of an input have knots of their own.
    """

    def __init__(self, inputs, outputs, intervals, order):
        super().__init__()
        self.order = order
        self.coef = nn.Parameter(torch.zeros(inputs, outputs, intervals + order))
        self.scale_base = nn.Parameter(torch.zeros(inputs, outputs))
        self.scale_sp = nn.Parameter(torch.zeros(inputs, outputs))
        self.register_buffer("grid", torch.zeros(inputs, intervals + 2 * order + 1))
        self.register_buffer("mask", torch.ones(inputs, outputs))

    def splines(self, x):
        """B-splines by the recursion of Cox and de Boor: x [rows, inputs] to [rows, inputs, intervals + order]."""
        x, t = x.unsqueeze(-1), self.grid
        value = ((x >= t[:, :-1]) & (x < t[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            gap = t[:, k:] - t[:, :-k]
            share = torch.where(gap == 0, 0.0, 1 / gap)  # where knots coincide, a function counts as zero
            rising = (x - t[:, : -(k + 1)]) * share[:, :-1] * value[..., :-1]
            value = rising + (t[:, k + 1 :] - x) * share[:, 1:] * value[..., 1:]
        return value

    def forward(self, x):
        spline = torch.einsum("nik,iok->nio", self.splines(x), self.coef)
        edges = self.scale_base * functional.silu(x).unsqueeze(-1) + self.scale_sp * spline
        return (self.mask * edges).sum(1)


class Pointwise(nn.Module):
    """One value of each input: x [...] to [..., 1]."""

    width = 1

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x).unsqueeze(-1)


class BSpline(nn.Module):
    """B-splines on a uniform grid: x [...] to [..., intervals + order].

    Each is the cardinal B-spline, shifted: M(t) = sum_i (-1)^i C(k+1, i) max(0, (k+1)/2 - i - |t|)^k / k!.
    """

    def __init__(self, low, high, intervals, order):
        super().__init__()
        self.low, self.step, self.order, self.width = low, (high - low) / intervals, order, intervals + order
        centres = torch.arange(self.width) - order + (order + 1) / 2
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, x):
        k = self.order
        distance = (((x - self.low) / self.step).unsqueeze(-1) - self.centres).abs()
        terms = [
            ((k + 1) / 2 - i - distance).clamp(min=0) ** k * ((-1) ** i * comb(k + 1, i) / factorial(k))
            for i in range(k // 2 + 1)
        ]
        return sum(terms)


class KnotSpline(nn.Module):
    """B-splines on knots of each input's own, by the recursion of Cox and de Boor.

    x [rows, inputs] to [rows, inputs, intervals + order].
    """

    def __init__(self, inputs, intervals, order):
        super().__init__()
        self.order, self.width = order, intervals + order
        self.register_buffer("knots", torch.zeros(inputs, intervals + 2 * order + 1))

    def forward(self, x):
        x, t = x.unsqueeze(-1), self.knots
        value = ((x >= t[:, :-1]) & (x < t[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            gap = t[:, k:] - t[:, :-k]
            share = torch.where(gap == 0, 0.0, 1 / gap)  # where knots coincide, a function counts as zero
            rising = (x - t[:, : -(k + 1)]) * share[:, :-1] * value[..., :-1]
            value = rising + (t[:, k + 1 :] - x) * share[:, 1:] * value[..., 1:]
        return value


class Radial(nn.Module):
    """Gaussians exp(-((x - c) / w)^2) at even centres, w between two of them: x [...] to [..., centres]."""

    def __init__(self, low, high, centres):
        super().__init__()
        self.width, self.spread = centres, (high - low) / (centres - 1)
        self.register_buffer("centres", torch.linspace(low, high, centres), persistent=False)

    def forward(self, x):
        return torch.exp(-(((x.unsqueeze(-1) - self.centres) / self.spread) ** 2))


class Switch(nn.Module):
    """Reflectional switch functions 1 - tanh((x - c) d)^2 at even centres: x [...] to [..., centres]."""

    def __init__(self, low, high, centres, sharpness):
        super().__init__()
        self.width, self.sharpness = centres, sharpness
        self.register_buffer("centres", torch.linspace(low, high, centres), persistent=False)

    def forward(self, x):
        return 1 - torch.tanh((x.unsqueeze(-1) - self.centres) * self.sharpness) ** 2


class Fourier(nn.Module):
    """cos(x), ..., cos(K x), sin(x), ..., sin(K x): x [...] to [..., 2 K]."""

    def __init__(self, frequencies):
        super().__init__()
        self.width = 2 * frequencies
        self.register_buffer("multiples", torch.arange(1.0, frequencies + 1), persistent=False)

    def forward(self, x):
        angles = x.unsqueeze(-1) * self.multiples
        return torch.cat([angles.cos(), angles.sin()], -1)


class Chebyshev(nn.Module):
    """Chebyshev polynomials T_0(z), ..., T_K(z) of z = tanh(x): x [...] to [..., K + 1]."""

    def __init__(self, degree):
        super().__init__()
        self.degree, self.width = degree, degree + 1

    def forward(self, x):
        z = torch.tanh(x)
        found = [torch.ones_like(z), z]
        for _ in range(self.degree - 1):
            found.append(2 * z * found[-1] - found[-2])
        return torch.stack(found, -1)


class Powers(nn.Module):
    """1, x, ..., x^degree: x [...] to [..., degree + 1]."""

    def __init__(self, degree):
        super().__init__()
        self.degree, self.width = degree, degree + 1

    def forward(self, x):
        return torch.stack([x**n for n in range(self.degree + 1)], -1)


@dataclass(frozen=True)
class Module:
    """A basis in plain PyTorch: its class, and the arguments that a grid gives it, as source."""

    kind: type[nn.Module]
    arguments: Callable[[Grid], str]

    def source(self, grid: Grid) -> str:
        """The expression that makes the module."""
        return f"{self.kind.__name__}({self.arguments(grid)})"


def _pointwise(function: str) -> Module:
    return Module(Pointwise, lambda _: function)


#: One entry for each of `pipeline.heads.network.BASES`.
MODULES: dict[str, Module] = {
    "identity": _pointwise("nn.Identity()"),
    "relu": _pointwise("torch.relu"),
    "gelu": _pointwise("functional.gelu"),
    "silu": _pointwise("functional.silu"),
    "tanh": _pointwise("torch.tanh"),
    "sigmoid": _pointwise("torch.sigmoid"),
    "square_relu": _pointwise("lambda x: torch.relu(x) ** 2"),
    **{f"polynomial{degree}": Module(Powers, lambda _, degree=degree: f"{degree}") for degree in (2, 3, 5)},
    "b_spline": Module(BSpline, lambda g: f"{g.low}, {g.high}, {g.intervals}, {g.order}"),
    "radial": Module(Radial, lambda g: f"{g.low}, {g.high}, {g.centres}"),
    "switch": Module(Switch, lambda g: f"{g.low}, {g.high}, {g.centres}, {g.sharpness}"),
    "fourier": Module(Fourier, lambda g: f"{g.intervals}"),
    "chebyshev": Module(Chebyshev, lambda g: f"{g.order}"),
}
