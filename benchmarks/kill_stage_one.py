"""Kill the writing of a cache 100 times at random moments and look at what is left, each time.

    python benchmarks/kill_stage_one.py [--kills 100] [--megabytes 60] [--folder DIR] [--out FILE.md]

A forked process computes blocks and writes them; it gets SIGKILL after a random time. Then: the journal holds at least
what it held before, the next process begins at the first block that is not in it, a file that has its final name passes
`verify`, and its bytes are those of an uninterrupted run. Ends with status 1 at the first that does not hold.
"""

import argparse
import hashlib
import os
import platform
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.store import CacheWriter, verify
from pipeline.store.journal import read_journal, work_folder

WIDTH, BLOCK = 384, 512
ATTRIBUTES = {
    "task": "bench", "labels": ["0", "1"], "encoder": "none", "encoder_sha256": "0", "config_sha256": "0",
    "tokenizer_sha256": "0", "max_length": 128, "precision": "float32", "pairs": "joint", "layers": None, "limit": None,
    "source": "none", "source_sha256": "0", "default_feature": "mean", "versions": {}, "created": "now",
}  # fmt: skip
DATASETS = ("idx", "text", "label", "length", "pooled", "last_hidden")


def arrays(start: int, stop: int) -> dict:
    """A block, as an encoder would compute it: some milliseconds of work."""
    generator = np.random.default_rng(start)
    length = generator.integers(3, 30, stop - start).astype(np.int32)
    return {
        "idx": np.arange(start, stop),
        "text": [f"row {i} " * (i % 9) for i in range(start, stop)],
        "label": np.arange(start, stop) % 2,
        "length": length,
        "pooled": generator.standard_normal((stop - start, WIDTH), np.float32),
        "last_hidden": generator.standard_normal((int(length.sum()), WIDTH), np.float32).astype(np.float16),
    }


def write(path: Path, rows: int, begun: int) -> None:
    """Write the cache, and a line with the row of each block that is computed to the descriptor `begun`."""
    with CacheWriter(path, ATTRIBUTES, {"train": rows}, DATASETS, {"D": WIDTH}, block_rows=BLOCK) as writer:
        for block in writer.todo():
            os.write(begun, b"%d\n" % block.start)
            writer.write(block, arrays(block.start, block.stop))
        writer.finish()


def run(path: Path, rows: int, log: Path, seconds: float | None) -> bool:
    """A process that writes, killed after `seconds`; whether it was killed."""
    child = os.fork()
    if not child:
        status = 1
        try:
            write(path, rows, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            status = 0
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        sys.exit("a writer failed")
    return os.WIFSIGNALED(status)


def committed(path: Path) -> int:
    """Rows that are safe."""
    records = read_journal(work_folder(path) / "journal")
    return max((record.header["block"][1] for record in records if "block" in record.header), default=0)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("."), help="a folder on the disk to use")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("kill_stage_one.md"))
    options = parser.parse_args()
    rows = max(BLOCK, options.megabytes * 10**6 // (WIDTH * (2 * 16 + 4)))
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        path, log = Path(name) / "toy.h5", Path(name) / "log"
        began = time.perf_counter()
        run(path, rows, log, None)
        alone, size, expected = time.perf_counter() - began, path.stat().st_size, digest(path)
        path.unlink()
        kills = files = blocks = most = 0
        while kills < options.kills:
            before = committed(path)
            killed = run(path, rows, log, chance.uniform(0.01, alone / 4))
            kills += killed
            begun = [int(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []
            log.unlink(missing_ok=True)
            if begun != list(range(before, before + BLOCK * len(begun), BLOCK)):
                sys.exit(f"{before} rows were safe, and the next process computed the blocks {begun}")
            blocks += len(begun)
            if path.exists():
                if digest(path) != expected or not verify(path).good:
                    sys.exit(f"the file differs: {verify(path).fault}")
                run(path, rows, log, None)
                path.unlink()
                log.unlink(missing_ok=True)
                files += 1
            elif committed(path) < before:
                sys.exit(f"{before} rows were safe, {committed(path)} are left")
            else:
                most = max(most, BLOCK * len(begun) - (committed(path) - before))
        run(path, rows, log, None)
        if digest(path) != expected:
            sys.exit("the file differs")
    lines = [
        "# Stage one's writer, killed",
        "",
        f"`python benchmarks/kill_stage_one.py --kills {options.kills} --megabytes {options.megabytes}` on "
        f"{os.cpu_count()} cores; Python {platform.python_version()}, Linux {platform.release()}.",
        "",
        "| what | figure |",
        "|---|---:|",
        f"| kills (SIGKILL at random moments) | {kills} |",
        f"| files finished in spite of them, all byte for byte those of an uninterrupted run | {files + 1} |",
        f"| size of each | {size / 1e6:.0f} MB |",
        "| unreadable files | 0 |",
        "| committed blocks computed again | 0 |",
        f"| blocks computed | {blocks} |",
        f"| most rows a kill cost (three blocks of {BLOCK} may be under way, one in the making) | {most} |",
        "",
    ]
    options.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
