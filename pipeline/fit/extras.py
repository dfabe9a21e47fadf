"""What only the plain engine does within a step: dropout and spline regularisation."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.hashing import hash_json
from pipeline.heads.config import HeadConfig
from pipeline.heads.network import LayerSpec, NetworkSpec

__all__ = ["Dropout", "SplinePenalty", "spline_penalty", "wanted"]


class Dropout:
    """Masks of hidden units, each head's from its own generator, so that a head does not depend on its pack.

    A dropped unit adds nothing to the next layer: all its basis values are zero, and the kept ones are divided by the
    share that is kept (inverted dropout; Srivastava et al. 2014). Masks depend on seed, family, shapes and share.
    """

    def __init__(self, configs: Sequence[HeadConfig], network: NetworkSpec, device: torch.device) -> None:
        shapes = {name: list(shape) for name, shape in network.shapes().items()}
        self.share = torch.tensor([config.dropout or 0.0 for config in configs])
        self.device = device
        names = [
            hash_json({"seed": c.seed, "head": c.head, "dropout": c.dropout or 0.0, "shapes": shapes}) for c in configs
        ]
        self.generators = [torch.Generator().manual_seed(int(name[:15], 16)) for name in names]

    def mask(self, layer: LayerSpec, rows: int) -> Tensor:
        """Factors [heads, rows, features] of the layer's expansion: 0, or 1 / (1 - share)."""
        drawn = torch.stack([torch.rand(rows, layer.inputs, generator=generator) for generator in self.generators])
        share = self.share.view(-1, 1, 1)
        units = ((drawn >= share) / (1 - share)).to(self.device)
        if layer.units:
            return units
        return torch.cat([units.repeat_interleave(width, -1) for width in layer.widths], -1)


def spline_penalty(spline: Tensor, l1: Tensor, entropy: Tensor) -> Tensor:
    """efficient-kan's regularisation [heads] of spline weights [heads, inputs, width, out], for weights l1 and entropy.

    a = mean over the width of |spline|; l1 * sum(a) + entropy * (- sum p log p) with p = a / sum(a). Zeros count as
    the limit says, 0 log 0 = 0, and pull at nothing: an edge that is exactly zero has no gradient.
    """
    size = spline.abs().mean(2).flatten(1)
    total = size.sum(1)
    share = size / total.clamp_min(torch.finfo(size.dtype).tiny).unsqueeze(1)
    logs = torch.where(share > 0, share, torch.ones_like(share)).log()
    return l1 * total - entropy * (share * logs).sum(1)


class SplinePenalty:
    """Adds the gradient of `spline_penalty`, summed over a head's layers, to a step's gradients."""

    def __init__(self, configs: Sequence[HeadConfig], network: NetworkSpec, device: torch.device) -> None:
        self.layers = [
            (index, layer) for index, layer in enumerate(network.layers) if layer.widths[0] > 1 and not layer.units
        ]
        self.l1, self.entropy = (
            torch.tensor([getattr(config, name) or 0.0 for config in configs], device=device)
            for name in ("spline_l1", "spline_entropy")
        )

    def add(self, gradients: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        """Add to `gradients` of the weights that the first bases of layers have, in place."""
        for index, layer in self.layers:
            name, rows = f"layers.{index}.weight", layer.inputs * layer.widths[0]
            with torch.enable_grad():
                spline = tensors[name][:, :rows].detach().requires_grad_()
                edges = spline.unflatten(1, (layer.inputs, layer.widths[0]))
                penalty = spline_penalty(edges, self.l1.to(spline.dtype), self.entropy.to(spline.dtype)).sum()
            gradients[name][:, :rows] += torch.autograd.grad(penalty, spline)[0]


def wanted(configs: Sequence[HeadConfig], *names: str) -> bool:
    """Whether any head sets one of these options."""
    return any(getattr(config, name) for config in configs for name in names)
