"""The HDF5 cache between the two stages: write, resume, merge, read, verify, list and prune."""

from pipeline.store.merge import merge_parts, part_path
from pipeline.store.prune import Prunable, describe, find_prunable, list_caches, prune
from pipeline.store.read import Cache, Ragged, SplitView, open_cache
from pipeline.store.request import missing_datasets
from pipeline.store.schema import ATTRIBUTES, DATASETS, SCHEMA, fingerprint
from pipeline.store.texts import Texts
from pipeline.store.verify import Report, verify
from pipeline.store.write import BLOCK_ROWS, Block, CacheWriter

__all__ = [
    "ATTRIBUTES",
    "BLOCK_ROWS",
    "DATASETS",
    "SCHEMA",
    "Block",
    "Cache",
    "CacheWriter",
    "Prunable",
    "Ragged",
    "Report",
    "SplitView",
    "Texts",
    "describe",
    "find_prunable",
    "fingerprint",
    "list_caches",
    "merge_parts",
    "missing_datasets",
    "open_cache",
    "part_path",
    "prune",
    "verify",
]
