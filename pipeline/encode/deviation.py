"""How far a precision strays from float32 on a sample of rows."""

import itertools

import numpy as np
import torch

from pipeline.encode.blocks import encode_block
from pipeline.encode.encoders import Encoder
from pipeline.encode.load import Loaded, load
from pipeline.encode.request import TaskRequest
from pipeline.encode.tokens import sentences_of

__all__ = ["deviation", "exact_encoder"]

FEATURES = ("pooled", "cls", "mean", "weight", "reduced")
#: Budget of the comparison's batches: small, so that it fits beside the encoder that was used.
BATCH_TOKENS = 4096


def exact_encoder(encoder: Encoder, max_length: int, device: torch.device, layers: tuple[int, ...] | None) -> Loaded:
    """Transformers in float32 on the padded path that every `AutoModel` can take."""
    return load(encoder, max_length, device, "float32", layers, padded=True)


def deviation(
    exact: Loaded, loaded: Loaded, request: TaskRequest, reduce_size: int, rows: int
) -> dict[str, tuple[float, float]]:
    """Feature to (largest absolute difference, least cosine) between `loaded` and `exact`.

    The sample is the first `rows` rows of the first split.
    """
    split = next(iter(request.splits))
    sample = list(itertools.islice(request.source.rows(split), rows))
    features = [name for name in FEATURES if name in request.datasets]
    if request.siamese:
        sample, features = sentences_of(sample)[0][:rows], [request.default_feature]
    if not sample or not features:
        return {}
    tokens = exact.tokeniser(sample)
    found, expected = (
        encode_block(
            one,
            tokens,
            features,
            default_feature=request.default_feature,
            reduce_size=reduce_size,
            batch_tokens=BATCH_TOKENS,
        )
        for one in (loaded, exact)
    )
    return {name: _compare(found[name], expected[name]) for name in features}


def _compare(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    dot = (found * expected).sum(1)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = dot / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(np.abs(found - expected).max()), float(cosine.min())
