"""From a row's tokens to one vector: every pooling is one record, from which caches, writers and heads take what it is.

Adding one is an entry here. Nothing in this module imports PyTorch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.encode.hidden import Hidden

__all__ = ["POOLINGS", "Pooling"]


@dataclass(frozen=True)
class Pooling:
    """A dataset with one vector for each row, [N, width] float32, that an encoder's hidden states give.

    `compute` maps the hidden states of a batch of n rows to [n, width] float32. `width` names an axis of the cache:
    `D` for the hidden states' width, `S` for that of the sentence embedding. `needs` says what an encoder must have for
    it: a trained `pooler`, `words` as wide as its hidden states, or declared `modules`. Only those with `stored` are
    stored without being asked for, and the encoder's default feature.
    """

    name: str
    doc: str
    compute: "Callable[[Hidden], Tensor]"
    width: str = "D"
    needs: str = ""
    stored: bool = True


def _sentence(hidden: "Hidden") -> "Tensor":
    head = hidden.head
    return head(POOLINGS[head.pooling].compute(hidden))


POOLINGS: dict[str, Pooling] = {
    pooling.name: pooling
    for pooling in (
        Pooling("pooled", "the encoder's pooler output", lambda hidden: hidden.pooler().float(), needs="pooler"),
        Pooling("cls", "last hidden state at the first token", lambda hidden: hidden.last[hidden.first].float()),
        Pooling(
            "mean",
            "mean of the last hidden state over real tokens",
            lambda hidden: hidden.sums(hidden.last).div_(hidden.bounds.diff()[:, None]),
        ),
        Pooling(
            "weight",
            "sum of the input word embeddings over real tokens",
            lambda hidden: hidden.sums(hidden.words(hidden.ids)),
            needs="words",
        ),
        Pooling(
            "sentence",
            "the sentence embedding that a sentence-transformers folder declares",
            _sentence,
            width="S",
            needs="modules",
        ),
        Pooling(
            "max",
            "maximum of the last hidden state over real tokens",
            lambda hidden: hidden.maxima(hidden.last),
            stored=False,
        ),
        Pooling(
            "last",
            "last hidden state at the last token",
            lambda hidden: hidden.last[hidden.bounds[1:].long() - 1].float(),
            stored=False,
        ),
    )
}
