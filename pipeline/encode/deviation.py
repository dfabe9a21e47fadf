"""How far a precision strays from float32 on a sample of rows."""

import itertools

import numpy as np

from pipeline.encode.blocks import sort_tokens, start_block
from pipeline.encode.load import Loaded
from pipeline.encode.request import TaskRequest
from pipeline.encode.siamese import sentences_of
from pipeline.poolings import POOLINGS

__all__ = ["Deviation"]

#: Budget of the comparison's batches: small, so that it fits beside the encoder that was used.
BATCH_TOKENS = 4096


class Deviation:
    """The deviation of `loaded` from `exact`, begun when it is made: the first `rows` rows of the first split."""

    def __init__(self, exact: Loaded, loaded: Loaded, request: TaskRequest, reduce_size: int, rows: int) -> None:
        split = next(iter(request.splits))
        sample = list(itertools.islice(request.source.rows(split), rows))
        features = [name for name in (*POOLINGS, "reduced") if name in request.datasets]
        if request.siamese:
            sample, features = sentences_of(sample)[0][:rows], [request.default_feature]
        self._features, self._pending = features, []
        if not sample or not features:
            return
        tokens = sort_tokens(exact.tokeniser(sample), loaded.device)
        self._pending = [
            start_block(
                one,
                tokens,
                features,
                default_feature=request.default_feature,
                reduce_size=reduce_size,
                batch_tokens=BATCH_TOKENS,
            )
            for one in (loaded, exact)
        ]

    def result(self) -> dict[str, tuple[float, float]]:
        """Feature to (largest absolute difference, least cosine)."""
        if not self._pending:
            return {}
        found, expected = (one.arrays() for one in self._pending)
        return {name: _compare(found[name], expected[name]) for name in self._features}


def _compare(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    dot = (found * expected).sum(1)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = dot / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(np.abs(found - expected).max()), float(cosine.min())
