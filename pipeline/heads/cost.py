"""What a head costs: trained parameters, and floating-point operations (FLOPs) of a forward pass and of training.

**Matrix products** cost two operations a weight and row; `torch.utils.flop_counter` counts the same, and the tests hold
the formulas to it. **Elementwise work**, which no profiler counts, is counted by hand from the formulas that
`pipeline.heads.bases` computes: every addition, product, comparison, division, root, exp, tanh and erf is one
operation, as in Hunger, Floating Point Operations in Matrix-Vector Calculus (2007). A basis's count stands beside it in
`pipeline.heads.network.BASES`; a layer norm (Ba, Kiros and Hinton 2016) takes eight operations an input: mean (1),
centring (1), square and sum (2), division by the root (1), trained scale and shift (2), and one for its share of the
root and of the two divisions by the width. A learned function of a unit (bspline_mlp) sums w values: 2 w - 1.

**Training** is what one step of AdamW does on a minibatch of B rows (`pipeline.fit.step`, `pipeline.fit.optimiser`):

- forward, with a separate scaler applied to the weights once a step, not once a row;
- loss and its gradient by the logits: five operations a logit (largest value off, exp, sum, division, target off);
- backward: the weights' gradient (2 a weight and row), the bias's (1 a logit or unit and row), and, wherever something
  trained lies in front of an expansion, the expansion's gradient (2 a weight and row) and twice its elementwise work
  (two operations of the chain rule for one of the formula: the bound of Baur and Strassen, Theoretical Computer Science
  1983, and the convention of Kaplan et al., arXiv 2001.08361); the scaler's own gradient takes three a spline weight;
- optimiser: seventeen a parameter: the clipped gradient's norm and factor (3), first moment (3), second moment (4),
  root, correction, epsilon, quotient (4), rate and subtraction (2), decay (1) (AdamW, arXiv 1711.05101).

**A pool that trains** (`pipeline.fit.attention`) is charged for a row of 128 tokens, the longest by default, since rows
differ: for each a score, four operations of the softmax (largest off, exp, sum, division) and its share of the weighted
sum (2 an input); in training also the products with the gradients, and four of the softmax's, but not the scores that
are computed again to save memory. Mean and max are taken once, when the data is read, and cost a head nothing.

**Not charged**, by us or to the original packages: dropout's masks (some operations a hidden unit and row), spline
penalties (`--spline-l1`, `--spline-entropy`: some operations a spline weight and step, less than the optimiser's
seventeen), refits of a grid, and Cox-de Boor in as many passes as the order where knots are even: a family is charged
for its formula, computed once an input and not once an edge.
"""

import math

from pipeline.heads.network import BASES, Grid, LayerSpec, NetworkSpec, basis_of
from pipeline.heads.pykan import PykanNetwork

__all__ = ["forward_flops", "parameters", "product_flops", "training_flops"]

NORM_FLOPS, LOSS_FLOPS, OPTIMISER_FLOPS = 8, 5, 17
#: Tokens of the row that a trained pool is charged for; operations of its softmax, and of the gradient's, for each.
POOL_TOKENS, SOFTMAX_FLOPS = 128, 4


def parameters(network: NetworkSpec | PykanNetwork) -> int:
    """Trained parameters: the numbers that the head's tensors hold."""
    if isinstance(network, PykanNetwork):
        return network.parameters
    return sum(math.prod(shape) for shape in network.shapes().values())


def _products(layer: LayerSpec) -> int:
    return 2 * (layer.features - layer.inputs * layer.per_edge) * layer.outputs


def _elementwise(layer: LayerSpec) -> int:
    """Operations for one row in front of the linear map: the bases, the norm and the learned functions' sums."""
    bases = sum(basis_of(branch.basis).flops(layer.grid) for branch in layer.branches)
    if layer.knots:
        bases += _cox_de_boor(layer.grid) - BASES["b_spline"].flops(layer.grid)
    sums = 2 * sum(layer.widths) - 1 if layer.units else 0
    if layer.per_edge:  # the function, its weight and the sum, once an edge and not once an input
        own = basis_of(layer.branches[0].basis).flops(layer.grid)
        bases += layer.outputs * (own + 2) - own
    return layer.inputs * (bases + NORM_FLOPS * layer.normed + sums)


def _cox_de_boor(grid: Grid) -> int:
    """B-splines of one input on knots of its own: where x lies (2 a knot), then six operations a function and order."""
    count = grid.intervals + 2 * grid.order
    return 2 * (count + 1) + count + 6 * sum(count - degree for degree in range(1, grid.order + 1))


def _scaled(layer: LayerSpec) -> int:
    """Weights that a separate scaler multiplies."""
    return layer.inputs * layer.widths[0] * layer.outputs if layer.scaler else 0


def _reached(network: NetworkSpec) -> list[tuple[LayerSpec, bool]]:
    """Every layer, and whether a gradient goes through its expansion: to layers below, or to its own norm or units."""
    return [
        (network.layers[index], index > chain.start or bool(network.layers[index].inner) or network.pool is not None)
        for chain in network.chains
        for index in chain
    ]


def product_flops(network: NetworkSpec | PykanNetwork, *, training: bool = False) -> int:
    """The matrix products' share of one row forward, or forward and backward: what a profiler counts."""
    if isinstance(network, PykanNetwork):
        return network.product_flops * (3 if training else 1)
    layers = sum(_products(layer) * (2 + reached if training else 1) for layer, reached in _reached(network))
    return layers + _pool_products(network) * (1 + training)


def _pool_products(network: NetworkSpec) -> int:
    """The scores and the weighted sum of a row's tokens: two products, each with one in the backward pass."""
    return 0 if network.pool is None else POOL_TOKENS * (_products(network.pool) + 2 * network.inputs)


def _pool_elementwise(network: NetworkSpec, *, training: bool = False) -> int:
    softmax = SOFTMAX_FLOPS * (1 + training)
    return 0 if network.pool is None else POOL_TOKENS * (_elementwise(network.pool) + softmax)


def _stack_sums(network: NetworkSpec) -> int:
    return (network.stacks - 1) * network.outputs


def forward_flops(network: NetworkSpec | PykanNetwork) -> int:
    """FLOPs of one row's forward pass by itself, elementwise work included."""
    if isinstance(network, PykanNetwork):
        return network.flops
    layers = network.layers
    rows = sum(_products(one) + _elementwise(one) + one.bias * one.outputs + _scaled(one) for one in layers)
    return rows + _stack_sums(network) + _pool_products(network) + _pool_elementwise(network)


def training_flops(network: NetworkSpec | PykanNetwork, batch_size: int) -> int:
    """FLOPs of one row of a training step: forward, loss, backward, and its share of the optimiser.

    The share is 1 / `batch_size` of what a step does once, rounded to a whole number. pykan's network is charged for
    one evaluation of its gradient, of which a step of LBFGS makes about twenty.
    """
    if isinstance(network, PykanNetwork):
        return 3 * network.flops + LOSS_FLOPS * network.outputs
    row, once = LOSS_FLOPS * network.outputs + _stack_sums(network), OPTIMISER_FLOPS * parameters(network)
    for layer, reached in _reached(network):
        row += _products(layer) * (2 + reached) + _elementwise(layer) * (1 + 2 * reached)
        row += 2 * layer.bias * layer.outputs
        once += 4 * _scaled(layer)
    row += 2 * _pool_products(network) + _pool_elementwise(network, training=True)
    return row + round(once / batch_size)
