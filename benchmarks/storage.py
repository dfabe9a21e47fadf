"""Measure the storage choices of the cache on this machine's disk, in one run, and write them as a Markdown table.

    python benchmarks/storage.py [--folder DIR] [--megabytes 1024] [--repeats 3] [--out benchmarks/storage.md]

Every write ends with fsync, so that a number is what reached the disk. Variants are interleaved (all of them once, then
all of them again), and the median of the repeats is shown, because disks are moody.
"""

import argparse
import hashlib
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from pipeline.device import hardware
from pipeline.store import BLOCK_ROWS, CacheWriter, open_cache

WIDTH = 384
ATTRIBUTES = {
    "task": "bench", "labels": ["0", "1"], "encoder": "none", "encoder_sha256": "0", "config_sha256": "0",
    "tokenizer_sha256": "0", "max_length": 128, "precision": "float32", "pairs": "joint", "layers": None, "limit": None,
    "source": "none", "source_sha256": "0", "default_feature": "mean", "versions": {}, "created": "now",
}  # fmt: skip


THREE, VECTORS = "three datasets of float32 vectors", ("pooled", "cls", "mean")
COMPRESSIONS: dict[str, dict] = {
    "lzf": {"compression": "lzf"}, "shuffle + lzf": {"compression": "lzf", "shuffle": True},
    "gzip 1": {"compression": "gzip", "compression_opts": 1},
    "shuffle + gzip 4": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
}  # fmt: skip


class Payload:
    """Rows of 5 to 40 tokens' states (float16), as a block that is repeated until there are enough bytes."""

    def __init__(self, megabytes: int, rows: int = BLOCK_ROWS) -> None:
        generator = np.random.default_rng(0)
        self.rows = rows
        self.length = generator.integers(5, 41, rows).astype(np.int32)
        self.values = generator.standard_normal((int(self.length.sum()), WIDTH), np.float32).astype(np.float16)
        self.blocks = max(1, round(megabytes * 1e6 / self.values.nbytes))
        self.bytes = self.blocks * self.values.nbytes

    @property
    def tokens(self) -> int:
        return self.blocks * len(self.values)


def sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def plain(path: Path, payload: Payload, vectors: np.ndarray | None = None, **options) -> None:
    """h5py, block after block into datasets of known length: the payload's values, or its three datasets of vectors."""
    blocks = {"values": payload.values} if vectors is None else dict(zip(VECTORS, vectors, strict=True))
    with h5py.File(path, "w") as file:
        for name, block in blocks.items():
            file.create_dataset(name, (len(block) * payload.blocks, WIDTH), block.dtype, **options)
        for start in range(payload.blocks):
            for name, block in blocks.items():
                file[name][start * len(block) : (start + 1) * len(block)] = block
    sync(path)


def plain_checked(path: Path, payload: Payload) -> None:
    """h5py with what our writer does besides, one after another: HDF5's Fletcher-32, SHA-256, fsync a block."""
    size, sha = len(payload.values), hashlib.sha256()
    with h5py.File(path, "w") as file:
        data = file.create_dataset("values", (payload.tokens, WIDTH), "f2", chunks=(341, WIDTH), fletcher32=True)
        for block in range(payload.blocks):
            sha.update(payload.values)
            data[block * size : (block + 1) * size] = payload.values
            file.flush()
            sync(path)
        data.attrs["sha256"] = sha.hexdigest()
    sync(path)


def variable_length(path: Path, payload: Payload) -> None:
    """h5py's variable-length rows."""
    rows = np.empty(payload.rows, object)
    for i, row in enumerate(np.split(payload.values.reshape(-1), np.cumsum(payload.length)[:-1] * WIDTH)):
        rows[i] = row
    with h5py.File(path, "w") as file:
        data = file.create_dataset("values", (payload.rows * payload.blocks,), h5py.vlen_dtype(np.float16))
        for block in range(payload.blocks):
            data[block * payload.rows : (block + 1) * payload.rows] = rows
    sync(path)


def shards(path: Path, payload: Payload) -> None:
    """One file a block, synced and renamed, then copied into one."""
    size = len(payload.values)
    for block in range(payload.blocks):
        with h5py.File(path.with_suffix(".tmp"), "w") as file:
            file["values"] = payload.values
        sync(path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path.with_name(f"{path.name}.{block}"))
    with h5py.File(path, "w") as file:
        data = file.create_dataset("values", (payload.tokens, WIDTH), "f2")
        for block in range(payload.blocks):
            with h5py.File(path.with_name(f"{path.name}.{block}")) as shard:
                data[block * size : (block + 1) * size] = shard["values"][:]
    sync(path)


def ours(path: Path, payload: Payload, chunk_bytes: int) -> None:
    """`CacheWriter`: checksums, SHA-256, and every block committed."""
    splits = {"train": payload.rows * payload.blocks}
    with CacheWriter(
        path, ATTRIBUTES, splits, ("length", "last_hidden"), {"D": WIDTH}, block_rows=payload.rows,
        chunk_bytes=chunk_bytes,
    ) as writer:  # fmt: skip
        for block in writer.todo():
            writer.write(block, {"length": payload.length, "last_hidden": payload.values})
        writer.finish()


def vectors_of(payload: Payload) -> np.ndarray:
    """The payload's bytes as float32 vectors of three datasets: [3, rows, WIDTH], made before anything is timed."""
    rows = payload.values.nbytes // (3 * 4 * WIDTH)
    return np.random.default_rng(1).standard_normal((3, rows, WIDTH), np.float32)


def ours_pooled(path: Path, payload: Payload, vectors: np.ndarray) -> None:
    """`CacheWriter` with the same bytes as float32 vectors in three datasets."""
    rows = vectors.shape[1]
    with CacheWriter(path, ATTRIBUTES, {"train": rows * payload.blocks}, VECTORS, {"D": WIDTH}) as w:
        for block in w.todo():
            w.write(block, {name: vectors[i][: block.rows] for i, name in enumerate(VECTORS)})
        w.finish()


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cores_given() -> float:
    """How many processors this machine gives right now: threads that hash at once against one alone."""
    data = bytes(50_000_000)

    def burn() -> None:
        hashlib.sha256(data).digest()

    alone = min(timed(burn) for _ in range(3))
    threads = [threading.Thread(target=burn) for _ in range(os.cpu_count() or 1)]

    def together() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return len(threads) * alone / timed(together)


def rates(
    folder: Path, payload: Payload, variants: dict[str, Callable[[Path], None]], repeats: int
) -> dict[str, tuple]:
    """Median MB/s, bytes on disk against bytes of data, and processor seconds a GB of each variant."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    busy: dict[str, list[float]] = {name: [] for name in variants}
    sizes: dict[str, int] = {}
    for _ in range(repeats):
        for name, work in variants.items():
            path = folder / "bench.h5"
            os.sync()
            before = time.process_time()
            seconds[name].append(timed(lambda work=work, path=path: work(path)))
            busy[name].append(time.process_time() - before)
            sizes[name] = path.stat().st_size
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return {
        name: (
            payload.bytes / statistics.median(seconds[name]) / 1e6,
            sizes[name] / payload.bytes,
            statistics.median(busy[name]) / payload.bytes * 1e9,
        )
        for name in variants
    }


def reading(folder: Path, payload: Payload, chunk_bytes: int) -> tuple[float, float, float, float]:
    """MB/s of reading all and rows/s of reading 200 single rows, through `open_cache` and through h5py."""
    path = folder / "bench.h5"
    ours(path, payload, chunk_bytes)
    rows = np.random.default_rng(1).integers(0, payload.rows * payload.blocks, 200)
    out = []
    with open_cache(path) as cache:
        ragged = cache["train"]["last_hidden"]
        out += [payload.bytes / timed(lambda: ragged[:]) / 1e6, 200 / timed(lambda: [ragged[r : r + 1] for r in rows])]
    with h5py.File(path) as file:
        values, offsets = file["train/last_hidden/values"], file["train/last_hidden/offsets"][:]
        out.append(payload.bytes / timed(lambda: values[:]) / 1e6)
        out.append(200 / timed(lambda: [values[offsets[r] : offsets[r + 1]] for r in rows]))
    path.unlink()
    return tuple(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("."), help="a folder on the disk to measure")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("storage.md"))
    options = parser.parse_args()
    payload, small = Payload(options.megabytes), Payload(max(30, options.megabytes // 8))

    def chunked(kilobytes: int, **more) -> Callable[[Path], None]:
        chunk = (max(1, kilobytes * 1024 // (2 * WIDTH)), WIDTH)
        return lambda path: plain(path, payload, chunks=chunk, **more)

    large: dict[str, Callable[[Path], None]] = {
        "h5py, contiguous (plain sequential)": lambda path: plain(path, payload)
    }
    for size in (64, 256, 1024, 4096):
        large[f"h5py, chunks of {size} KiB"] = chunked(size)
    for size in (256, 1024):
        large[f"h5py, chunks of {size} KiB, HDF5's Fletcher-32"] = chunked(size, fletcher32=True)
    large["h5py, chunks of 256 KiB, Fletcher-32, SHA-256, fsync a block"] = lambda path: plain_checked(path, payload)
    large["h5py, a file a block, copied into one"] = lambda path: shards(path, payload)
    for size in (64, 256, 1024, 4096):
        large[f"our writer, chunks of {size} KiB"] = lambda path, size=size: ours(path, payload, size * 1024)
    vectors = vectors_of(payload)
    large[f"h5py, contiguous, {THREE}"] = lambda path: plain(path, payload, vectors)
    large[f"our writer, {THREE}"] = lambda path: ours_pooled(path, payload, vectors)
    chunk = {"chunks": (341, WIDTH)}
    little: dict[str, Callable[[Path], None]] = {
        "flat, contiguous": lambda path: plain(path, small),
        **{
            f"flat, chunks of 256 KiB, {name}": lambda path, more=more: plain(path, small, **chunk, **more)
            for name, more in COMPRESSIONS.items()
        },
        "variable-length rows": lambda path: variable_length(path, small),
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        cores = [cores_given()]
        first = rates(folder, payload, large, options.repeats)
        cores.append(cores_given())
        second = rates(folder, small, little, options.repeats)
        read = {size: reading(folder, payload, size * 1024) for size in (64, 256, 1024, 4096)}
    bases = {THREE in name: rate for name, (rate, _, _) in reversed(first.items()) if "contiguous" in name}
    lines = [
        "# Storage of the cache, measured",
        "",
        f"`python benchmarks/storage.py --megabytes {options.megabytes} --repeats {options.repeats}` on "
        f"{hardware(torch.device('cpu'))}; Python {platform.python_version()}, numpy {np.__version__}, h5py "
        f"{h5py.__version__}, HDF5 {h5py.version.hdf5_version}; {WIDTH} wide, float16, rows of 5 to 40 tokens of "
        "normal noise (real vectors compress a little better). Every write ends with fsync; median of the repeats.",
        "",
        f"## Writing {payload.bytes / 1e6:.0f} MB",
        "",
        "| variant | MB/s | of plain | processor seconds a GB |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {rate:.0f} | {rate / bases[THREE in name]:.0%} | {busy:.2f} |"
            for name, (rate, _, busy) in first.items()
        ),
        "",
        "Each of our writer's rows is compared with the plain write of the same datasets. Its numbers include SHA-256, "
        "Fletcher-32, the check for NaN, and a commit of each block of "
        f"{payload.rows} rows ({payload.values.nbytes / 1e6:.0f} MB). They need processors beside the disk: the "
        f"machine's {os.cpu_count()} gave the work of {cores[0]:.1f} before these runs and of {cores[1]:.1f} after "
        "them.",
        "",
        f"## Compression and ragged rows, {small.bytes / 1e6:.0f} MB",
        "",
        "| variant | MB/s | size |",
        "|---|---:|---:|",
        *(f"| {name} | {rate:.0f} | {size:.0%} |" for name, (rate, size, _) in second.items()),
        "",
        "## Reading a cache (from the page cache, checksums checked)",
        "",
        "| chunk | `open_cache`, all, MB/s | single rows/s | h5py, all, MB/s | single rows/s |",
        "|---|---:|---:|---:|---:|",
        *(f"| {size} KiB | {a:.0f} | {b:.0f} | {c:.0f} | {d:.0f} |" for size, (a, b, c, d) in read.items()),
        "",
    ]
    options.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
