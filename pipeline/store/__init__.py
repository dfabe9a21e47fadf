"""The HDF5 cache between the two stages: write, resume, merge, read, verify, list and prune."""

from pipeline.store.read import Cache, Ragged, SplitView, open_cache
from pipeline.store.request import missing_datasets
from pipeline.store.schema import ATTRIBUTES, DATASETS, SCHEMA, fingerprint
from pipeline.store.write import BLOCK_ROWS, Block, CacheWriter

__all__ = [
    "ATTRIBUTES",
    "BLOCK_ROWS",
    "DATASETS",
    "SCHEMA",
    "Block",
    "Cache",
    "CacheWriter",
    "Ragged",
    "SplitView",
    "fingerprint",
    "missing_datasets",
    "open_cache",
]
