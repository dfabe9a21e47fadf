"""Kill sweeps at random moments, and cut the power: what is left must resume to what an uninterrupted sweep gives.

    python benchmarks/kill_stage_two.py [--kills 50] [--cuts 200] [--seed 0]

A forked process sweeps 24 heads in packs of at most 4. A kill is SIGKILL after a random time. A power cut is an end at
a random file operation, after which every file that was not synchronised is lost, empty, cut, zeroed or whole at random
(SQLite synchronises its own file). After each: every row has its head, whole; the same sweep goes on; then rows and
metrics are those of the uninterrupted one, every head has its row and nothing else lies in the folder. Ends with
status 1 at the first that does not hold.
"""

import argparse
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

import pipeline
from pipeline import publish
from pipeline.models import saved
from pipeline.sweep import packs
from pipeline.sweep.keep import verify
from pipeline.sweep.results import Results
from tests.helpers.synthetic_caches import write_cache

SEEDS = 12


def sweep(root: Path) -> None:
    pipeline.sweep(
        task=["rte"], head=["linear", "mlp"], encoder=["tiny"], cache=root / "cache", results=root / "r.sqlite",
        hidden=4, epochs=2, device="cpu", seeds=f"0:{SEEDS}",
    )  # fmt: skip


def metrics(root: Path) -> dict:
    with Results(root / "r.sqlite") as store:
        return {head["id"]: (head["metrics"], head["selection"], head["epoch"]) for head in store.heads()}


def child(root: Path, log: Path, stop: int | None) -> int:
    """A process that sweeps; with `stop`, it ends at that file operation. What it synchronised stands in `log`."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        torch.set_num_threads(1)
        packs.FIRST = packs.FIRST | {"cpu": (1, 4, 4)}
        record = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        done = [0]

        def counted(function, note=None):
            def call(*arguments, **options):
                done[0] += 1
                if stop is not None and done[0] == stop:
                    os._exit(7)
                result = function(*arguments, **options)
                if note:
                    os.write(record, f"{note(*arguments)}\n".encode())
                return result

            return call

        saved.Stage.write = counted(saved.Stage.write)
        saved.sync = counted(publish.sync, lambda folder: "files " + " ".join(one.name for one in folder.iterdir()))
        saved.replace_folder = counted(publish.replace_folder)
        saved.sync_entries = counted(publish.sync_entries)
        Results._execute = counted(Results._execute)
        sweep(root)
        status = 0
    finally:
        os._exit(status)


def cut_power(root: Path, log: Path, drawn: random.Random) -> None:
    """What a file system may leave of files that were not synchronised."""
    lines = log.read_text().split("\n") if log.exists() else []
    safe = {name for line in lines if line.startswith("files ") for name in line.split()[1:]}
    folder = root / "heads"
    for head in sorted(folder.iterdir()) if folder.is_dir() else ():
        if head.name.startswith("."):
            if drawn.random() < 0.5:
                shutil.rmtree(head)
        elif head.name not in safe:
            spoil(head, drawn)


def spoil(head: Path, drawn: random.Random) -> None:
    if drawn.random() < 0.2:
        shutil.rmtree(head)
        return
    for file in head.iterdir():
        data = file.read_bytes()
        kept = (data, b"", data[: len(data) // 2], bytes(len(data)), None)[drawn.randrange(5)]
        file.unlink() if kept is None else file.write_bytes(kept)


def check(root: Path, expected: dict, what: str) -> None:
    if (root / "r.sqlite").exists():
        try:
            before = verify(root / "r.sqlite")
        except pipeline.errors.ResultsError as error:  # the tables were not made yet
            before = None
            if "version 1, found 0" not in str(error):
                sys.exit(f"{what}: {error}")
        if before is not None and not before.good:
            sys.exit(f"{what}: a row without its head: {before}")
    process = child(root, root / "log", None)
    _, status = os.waitpid(process, 0)
    if status:
        sys.exit(f"{what}: the resumed sweep failed ({status})")
    after = verify(root / "r.sqlite")
    left = sorted(path.name for path in (root / "heads").iterdir())
    if not after.good or after.orphans or left != sorted(expected):
        sys.exit(f"{what}: {after}, {len(left)} folders")
    if metrics(root) != expected:
        sys.exit(f"{what}: other results than an uninterrupted sweep's")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--cuts", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    drawn = random.Random(given.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        write_cache(base / "cache", width=6)
        whole = Path(scratch) / "whole"
        shutil.copytree(base, whole)
        os.waitpid(child(whole, whole / "log", None), 0)
        expected = metrics(whole)
        again = Path(scratch) / "again"
        shutil.copytree(base, again)
        began = time.monotonic()
        os.waitpid(child(again, again / "log", None), 0)
        length = time.monotonic() - began
        assert len(expected) == 2 * SEEDS
        killed = stopped = 0
        for number in range(given.kills + given.cuts):
            root = Path(scratch) / f"{number}"
            shutil.copytree(base, root)
            if number < given.kills:
                process = child(root, root / "log", None)
                time.sleep(drawn.uniform(0, length))
                os.kill(process, signal.SIGKILL)
                _, status = os.waitpid(process, 0)
                killed += os.WIFSIGNALED(status)
                check(root, expected, f"kill {number}")
            else:
                process = child(root, root / "log", drawn.randrange(1, 110))
                _, status = os.waitpid(process, 0)
                stopped += os.waitstatus_to_exitcode(status) == 7
                cut_power(root, root / "log", drawn)
                check(root, expected, f"cut {number - given.kills}")
            shutil.rmtree(root)
    print(
        f"{given.kills} SIGKILLs ({killed} before the end), {given.cuts} power cuts ({stopped} before the end) of a "
        f"sweep of {len(expected)} heads: every one resumed to the uninterrupted sweep's rows and heads "
        f"(Python {platform.python_version()}, torch {torch.__version__}, {platform.system()})"
    )


if __name__ == "__main__":
    main()
