"""What every test gets: fixed seeds, no network, and tiny encoders made once."""

import os
import random

os.environ["HF_HUB_OFFLINE"] = "1"
# pytest-xdist gives its workers a width, which tables would take for the user's wish.
os.environ.pop("COLUMNS", None)
# Tiny tensors gain nothing from threads, and threads that share cores with other work spin on each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny("bert")` is a folder with a small random encoder and its tokenizer; the same call, the same folder."""
    from tests.helpers import encoders

    folders = {}

    def folder(kind, **changes):
        key = (kind, *sorted(changes.items()))
        if key not in folders:
            folders[key] = encoders.save(tmp_path_factory.mktemp(kind) / kind, kind, **changes)
        return folders[key]

    return folder
