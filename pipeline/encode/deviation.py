"""How far a precision strays from float32 on a sample of rows."""

import itertools

import numpy as np

from pipeline.encode.blocks import encode_block
from pipeline.encode.encoders import Encoder
from pipeline.encode.load import Loaded, load
from pipeline.encode.request import Options, TaskRequest

__all__ = ["deviation"]

FEATURES = ("pooled", "cls", "mean", "weight", "reduced")
#: Budget of the comparison's batches: small, so that it fits beside the encoder that was used.
BATCH_TOKENS = 4096


def deviation(
    encoder: Encoder, loaded: Loaded, request: TaskRequest, options: Options, rows: int
) -> dict[str, tuple[float, float]]:
    """Feature to (largest absolute difference, least cosine) between `loaded` and transformers in float32.

    The sample is the first `rows` rows of the first split, on the padded path that every `AutoModel` can take.
    """
    split = next(iter(request.splits))
    sample = list(itertools.islice(request.source.rows(split), rows))
    features = [name for name in FEATURES if name in request.datasets]
    if not sample or not features:
        return {}
    exact = load(encoder, request.attributes["max_length"], loaded.device, "float32", options.layers, padded=True)
    tokens = exact.tokeniser(sample)
    found, expected = (
        encode_block(
            one,
            tokens,
            features,
            default_feature=request.default_feature,
            reduce_size=options.reduce_size,
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
