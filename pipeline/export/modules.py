"""The modules that an exported head is made of, in plain PyTorch.

Their source goes into the exported file exactly as written here, and a head's sizes and options beside it as JSON:
nothing that is read from a file ever becomes source. Each class must read well alone and need only what `HEADER` of
`pipeline.export.torch_file` imports.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import comb, factorial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from pipeline.heads.families import FAMILIES
from pipeline.heads.network import Grid

__all__ = ["MODULES", "OWN_MODULES", "Head", "KanLayer", "KnotSpline", "Layer", "Module", "load", "make"]


def make(description):
    """The module that {"kind": name of a class, "arguments": ..., "options": ...} describes."""
    return KINDS[description["kind"]](*description["arguments"], **description.get("options", {}))


class Head(nn.Module):
    """Features [rows, inputs], as they come from the encoder, to logits (or values) [rows, outputs].

    The head scales its features itself. Its layers are `stacks` networks of equal depth, whose outputs are summed;
    `target_scale` turns standardised values into the task's units.
    """

    def __init__(self, inputs, scale, layers, stacks=1, target_scale=None):
        super().__init__()
        self.scale, self.target_scale = scale, target_scale
        if scale != "none":
            self.register_buffer("shift", torch.zeros(inputs))
            self.register_buffer("factor", torch.ones(inputs))
        self.layers = nn.ModuleList(make(layer) for layer in layers)
        self.depth = len(layers) // stacks

    def forward(self, features):
        x = features if self.scale == "none" else (features - self.shift) * self.factor
        x = torch.tanh(x) if self.scale == "tanh" else x
        y = 0
        for start in range(0, len(self.layers), self.depth):
            z = x
            for layer in self.layers[start : start + self.depth]:
                z = layer(z)
            y = y + z
        if self.target_scale is None:
            return y
        mean, spread = self.target_scale
        return y * spread + mean


def load(folder):
    """The head with the weights in head.safetensors: a length in 8 bytes, a header in JSON, then plain numbers."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    data = (Path(folder) / "head.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    state = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            numbers = torch.frombuffer(bytearray(data[start + first : start + last]), dtype=torch.float32)
            state[name] = numbers.reshape(entry["shape"])
    head = Head(**config["network"])
    head.load_state_dict(state)
    return head.eval()


class Layer(nn.Module):
    """y = [phi_1(z), phi_2(z), ...] W + b for bases phi, where z is the input x [rows, inputs] or its layer norm.

    A scaler [inputs, outputs] multiplies the weights of the first basis. With `units`, the bases' values of an input
    are first summed to one number, with weights of its own (units = inputs) or the same for all inputs (units = 1).
    """

    def __init__(self, inputs, outputs, *, bases, bias=False, scaler=False, normed=(), units=0):
        super().__init__()
        self.bases, self.normed = nn.ModuleList(make(basis) for basis in bases), normed or [False] * len(bases)
        widths = [basis.width for basis in self.bases]
        features = inputs if units else inputs * sum(widths)
        self.weight = nn.Parameter(torch.zeros(features, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scaler = nn.Parameter(torch.ones(inputs, outputs)) if scaler else None
        self.unit = nn.Parameter(torch.zeros(units, sum(widths))) if units else None
        self.norm = nn.LayerNorm(inputs) if any(self.normed) else None

    def forward(self, x):
        z = x if self.norm is None else self.norm(x)
        parts = [basis(z if normed else x) for basis, normed in zip(self.bases, self.normed)]
        if getattr(self.bases[0], "per_edge", False):  # a function on every edge, with a weight of its own
            count = x.shape[-1]
            y = (parts[0] * self.weight[:count]).sum(-2)
            for part in parts[1:]:
                columns = part.shape[-2] * part.shape[-1]
                y = y + part.flatten(-2) @ self.weight[count : count + columns]
                count = count + columns
            return y if self.bias is None else y + self.bias
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
    functions = {  # noqa: RUF012 - a constant of the exported file
        "identity": lambda x: x,
        "relu": torch.relu,
        "gelu": functional.gelu,
        "silu": functional.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "square_relu": lambda x: torch.relu(x) ** 2,
    }

    def __init__(self, name):
        super().__init__()
        self.function = self.functions[name]

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


#: The classes by name, as the exported file has them too.
KINDS = {
    kind.__name__: kind
    for kind in (Layer, KanLayer, Pointwise, BSpline, KnotSpline, Radial, Switch, Fourier, Chebyshev, Powers)
}


#: The modules of bases that one family alone has, by the basis's name.
OWN_MODULES = {
    name: basis.module()
    for family in FAMILIES.values()
    for name, basis in family.bases.items()
    if basis.module is not None
}
KINDS |= {kind.__name__: kind for kind in OWN_MODULES.values()}


@dataclass(frozen=True)
class Module:
    """A basis in plain PyTorch: its class, and the arguments that a grid gives it."""

    kind: type[nn.Module]
    arguments: Callable[[Grid], tuple[float | str, ...]]

    def description(self, grid: Grid) -> dict[str, object]:
        """What `make` makes the module of, as plain JSON."""
        return {"kind": self.kind.__name__, "arguments": list(self.arguments(grid))}


#: One entry for each of `pipeline.heads.network.BASES`.
MODULES: dict[str, Module] = {
    **{name: Module(Pointwise, lambda _, name=name: (name,)) for name in Pointwise.functions},
    **{f"polynomial{degree}": Module(Powers, lambda _, degree=degree: (degree,)) for degree in (2, 3, 5)},
    "b_spline": Module(BSpline, lambda g: (g.low, g.high, g.intervals, g.order)),
    "radial": Module(Radial, lambda g: (g.low, g.high, g.centres)),
    "switch": Module(Switch, lambda g: (g.low, g.high, g.centres, g.sharpness)),
    "fourier": Module(Fourier, lambda g: (g.intervals,)),
    "chebyshev": Module(Chebyshev, lambda g: (g.order,)),
}
