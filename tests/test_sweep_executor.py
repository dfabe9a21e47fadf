"""Executors: work and results travel, packs run side by side, and the results are the same."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import CacheError
from pipeline.sweep.executor import Executor, LocalExecutor, PackTooLargeError, Trainer, Work
from pipeline.sweep.plan import plan
from pipeline.sweep.results import Results
from pipeline.sweep.run import run_sweep
from pipeline.sweep.spec import product_from
from tests.helpers.synthetic_caches import write_cache

OPTIONS = {"task": "rte", "encoder": "tiny", "head": ["mlp", "linear"], "epochs": 2, "hidden": [[4]], "seeds": "0:5"}


class Travelling(Executor):
    """Two workers that see only what pickles, and hold three heads each."""

    slots, device = 2, "cpu"

    def __init__(self):
        self.sizes, self.pool = [], ThreadPoolExecutor(2)

    def submit(self, work, on_epoch):
        self.sizes.append(len(work.configs))
        return self.pool.submit(self.train, pickle.dumps(work), on_epoch)

    def train(self, work, on_epoch):
        work = pickle.loads(work)
        if len(work.configs) > 3:
            raise PackTooLargeError("cpu: expected memory")
        return pickle.loads(pickle.dumps(Trainer("cpu")(work, on_epoch)))

    def free_bytes(self):
        return 1 << 30

    def __exit__(self, *exception):
        self.pool.shutdown()


@pytest.fixture
def root(tmp_path):
    write_cache(tmp_path / "cache")
    return tmp_path


def stored(root, name, make_executor=LocalExecutor):
    done = run_sweep(
        [product_from(OPTIONS, "sweep")],
        cache=root / "cache",
        results=root / name,
        device="cpu",
        make_executor=make_executor,
    )
    with Results(root / name) as store:
        outputs = {head["id"]: store.outputs(head["id"], "validation").tobytes() for head in store.heads()}
    return done, outputs


def test_another_executor_gives_the_same_heads(root):
    expected, outputs = stored(root, "local.sqlite")
    executor = Travelling()
    done, travelled = stored(root, "travelled.sqlite", lambda _: executor)
    assert (done.trained, done.failed, done.ids) == (10, 0, expected.ids)
    assert travelled == outputs
    assert max(executor.sizes) == 5
    assert sum(size for size in executor.sizes if size <= 3) == 10


def test_a_worker_refuses_a_cache_that_was_replaced(root):
    heads = plan([product_from(OPTIONS, "sweep")], root / "cache")
    work = Work(heads[0].cache, (heads[0].config,))
    write_cache(root / "cache", seed=7, replace=True)
    with pytest.raises(CacheError, match="it was replaced since"):
        Trainer("cpu")(work)
