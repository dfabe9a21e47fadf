"""One training step of a pack: forward, loss, backward, update, written out layer by layer.

The linear maps hold nearly all parameters, so their products are written by hand and go into buffers that exist; only
the expansions between them, which are small, are left to autograd. The first layer's expansion needs no gradient, and
where nothing trained stands in front of it, it is taken ready-made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.fit.extras import Dropout, SplinePenalty
from pipeline.fit.optimiser import PackedAdamW
from pipeline.heads.forward import expand, layer_forward, layer_tensors, linear, scaled_weight
from pipeline.heads.network import LayerSpec, NetworkSpec

__all__ = ["Gradient", "Operations", "TrainingStep", "loss", "row_losses"]

#: A tensor's gradient [heads, ...], or the factors [heads, rows, features] and [heads, rows, out] of a weight's.
Gradient = Tensor | tuple[Tensor, Tensor]


def row_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of every row [heads, rows] of outputs [heads, rows, classes].

    Cross-entropy for class numbers (int64), squared error for standardised values (float32).
    """
    if targets.dtype == torch.int64:
        return functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")
    return (outputs.squeeze(2) - targets) ** 2


def _output_gradient(outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the weighted sum of `row_losses` by the outputs [heads, rows, classes]; `weights` is [rows]."""
    if targets.dtype == torch.int64:
        gradient = outputs.softmax(2)
        gradient.scatter_add_(2, targets.unsqueeze(2), gradient.new_full((), -1.0).expand(*targets.shape, 1))
    else:
        gradient = 2 * (outputs - targets.unsqueeze(2))
    return gradient * weights.unsqueeze(1)


def loss(outputs: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The sum [heads] of `row_losses` weighted by `weights` [rows], and its gradient by the outputs."""
    return (row_losses(outputs, targets) * weights).sum(1), _output_gradient(outputs, targets, weights)


def _sum_rows(delta: Tensor, out: Tensor) -> Tensor:
    return torch.sum(delta, 1, out=out)


@dataclass(frozen=True)
class Operations:
    """What a step is made of; each as the function of this name in `pipeline.heads.forward`, or as PyTorch's.

    `product` is `torch.bmm`, `sum_rows` the sum of [heads, rows, out] over the rows, `loss` the one above.
    """

    expand: Callable[[LayerSpec, Tensor, Mapping[str, Tensor]], Tensor] = expand
    linear: Callable[[LayerSpec, Tensor, Mapping[str, Tensor]], Tensor] = linear
    product: Callable[..., Tensor] = torch.bmm
    sum_rows: Callable[..., Tensor] = _sum_rows
    loss: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = loss


PLAIN = Operations()


class TrainingStep:
    """Forward, backward and update of all heads of a pack on one minibatch each."""

    def __init__(
        self,
        network: NetworkSpec,
        tensors: dict[str, Tensor],
        optimiser: PackedAdamW,
        dropout: Dropout | None = None,
        penalty: SplinePenalty | None = None,
        *,
        operations: Operations = PLAIN,
        gradients: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`tensors` are [heads, ...] and change in place; `gradients` are buffers like them, made here if not given.

        A weight that has none among those given gets its gradient as factors, which the optimiser then takes.
        """
        self.network, self.tensors, self.optimiser = network, tensors, optimiser
        self.dropout, self.penalty, self._do = dropout, penalty, operations
        self._layers = [layer_tensors(tensors, index) for index in range(len(network.layers))]
        if gradients is None:
            gradients = {name: torch.empty_like(tensors[name]) for name in network.shapes()}
        self._gradients: dict[str, Gradient] = dict(gradients)
        self._factored = frozenset(network.shapes()) - frozenset(gradients)

    def gradients(self, x: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, Gradient]]:
        """Losses [heads] and the gradient of every tensor (in buffers that the next call overwrites).

        `x` is the first layer's expansion [heads, rows, features] where it is a constant of the features
        (`NetworkSpec.constant`), otherwise the features [heads, rows, inputs], or the `TokenBatch` of a pool; `targets`
        [heads, rows]; `weights` [rows], each row's share of the loss.
        """
        pool, reached, tokens = self.network.pool, None, x
        if pool is not None:
            x = tokens.pooled(self.tensors["pool.weight"])
        seen: list[tuple[Sequence[Tensor], Tensor, Tensor]] = []
        total: Tensor | None = None
        for chain in self.network.chains:
            y = x
            for index in chain:
                layer, tensors = self.network.layers[index], self._layers[index]
                if layer.per_edge:
                    with torch.enable_grad():
                        inner = {name: tensors[name].detach().requires_grad_() for name in layer.shapes()}
                        below = y.detach().requires_grad_(index > chain.start or pool is not None)
                        out = layer_forward(layer, below, inner)
                    seen.append(((*([below] if below.requires_grad else []), *inner.values()), out, out))
                    y = out.detach()
                    continue
                if index == chain.start and self.network.constant:
                    leaves, expansion = (), y
                else:
                    with torch.enable_grad():
                        inner = {name: tensors[name].detach().requires_grad_() for name in layer.inner}
                        below = y.detach().requires_grad_(index > chain.start or pool is not None)
                        kept = {name: tensors[name] for name in layer.buffers()}
                        expansion = self._do.expand(layer, below, inner | kept)
                        if self.dropout is not None and index > chain.start:
                            expansion = expansion * self.dropout.mask(layer, y.shape[1])
                    leaves = (*([below] if below.requires_grad else []), *inner.values())
                values = expansion.detach()
                y = self._do.linear(layer, values, tensors)
                seen.append((leaves, expansion, values))
            total = y if total is None else total + y
        losses, last = self._do.loss(total, targets, weights)
        for chain in self.network.chains:
            delta = last
            for index in reversed(chain):
                delta = self._layer_backward(index, *seen[index], delta)
            if pool is not None:
                reached = delta if reached is None else reached + delta
        if pool is not None:
            self._gradients["pool.weight"].copy_(tokens.gradient(self.tensors["pool.weight"], reached))
        if self.penalty is not None:
            self.penalty.add(self._gradients, self.tensors)
        return losses, self._gradients

    def _layer_backward(
        self, index: int, leaves: Sequence[Tensor], expansion: Tensor, values: Tensor, delta: Tensor
    ) -> Tensor | None:
        """Write one layer's gradients; return the gradient by the layer's input, `None` where nothing below trains.

        `leaves` are what the expansion was made of and needs gradients: the input, then the inner tensors.
        """
        layer, tensors = self.network.layers[index], self._layers[index]
        if layer.per_edge:
            return self._edge_backward(index, leaves, expansion, delta)
        if (name := f"layers.{index}.weight") in self._factored:
            self._gradients[name] = values, delta
        else:
            self._do.product(values.transpose(1, 2), delta, out=self._gradients[name])
        out = {name: self._gradients[f"layers.{index}.{name}"] for name in layer.shapes()}
        if layer.bias:
            self._do.sum_rows(delta, out=out["bias"])
        if layer.scaler:
            weight = tensors["weight"]
            split, width = layer.inputs * layer.widths[0], layer.widths[0]
            spline = out["weight"][:, :split].unflatten(1, (layer.inputs, width))
            own = weight[:, :split].unflatten(1, (layer.inputs, width))
            torch.sum(own * spline, 2, out=out["scaler"])
            spline.mul_(tensors["scaler"].unsqueeze(2))
        if not leaves:
            return None
        weight = scaled_weight(layer, tensors)
        found = list(torch.autograd.grad(expansion, leaves, self._do.product(delta, weight.transpose(1, 2))))
        below = found.pop(0) if len(leaves) > len(layer.inner) else None
        for name, gradient in zip(layer.inner, found, strict=True):
            out[name].copy_(gradient)
        return below

    def _edge_backward(self, index: int, leaves: Sequence[Tensor], output: Tensor, delta: Tensor) -> Tensor | None:
        """`_layer_backward` by autograd, for a layer with a function on every edge."""
        names = list(self.network.layers[index].shapes())
        gradients = list(torch.autograd.grad(output, leaves, delta))
        below = gradients.pop(0) if len(leaves) > len(names) else None
        for name, gradient in zip(names, gradients, strict=True):
            self._gradients[f"layers.{index}.{name}"].copy_(gradient)
        return below

    @torch.no_grad()
    def __call__(self, x: Tensor, targets: Tensor, weights: Tensor, share: float) -> Tensor:
        """Train on one minibatch; returns the losses [heads] before the update. Arguments as for `gradients`."""
        losses, gradients = self.gradients(x, targets, weights)
        self.optimiser.step(gradients, losses, share)
        return losses
