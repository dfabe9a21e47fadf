"""Stage one as a whole, killed at random moments: nothing committed is encoded again, and the file is the same."""

import json
import os
import random
import signal
import time
from pathlib import Path

import h5py

from pipeline.encode import session
from pipeline.encode.run import embed
from pipeline.store import verify
from pipeline.store.journal import read_journal, work_folder
from tests.helpers.store_kit import ended, fork

KILLS = int(os.environ.get("KANGLUE_KILLS", "30"))
BLOCK = 16


def rows_on_disk(path: Path) -> dict[str, int]:
    """Rows of each split that the journal holds."""
    records = read_journal(work_folder(path) / "journal")
    return {record.header["split"]: record.header["block"][1] for record in records if "block" in record.header}


def checksums(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item.attrs["sha256"]}) if "sha256" in item.attrs else None
        )
    return found


def test_killed_thirty_times_while_it_encodes(tmp_path, tiny, monkeypatch):
    texts = tmp_path / "mine.jsonl"
    lines = [
        {"a": f"row {n} " + "word " * (n % 37), "y": n % 2, "s": "train" if n % 5 else "validation"} for n in range(250)
    ]
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(session, "CPU_BLOCK_ROWS", BLOCK)
    encoder = str(tiny("bert"))

    def run(cache: Path) -> None:
        embed(
            "mine", encoder=encoder, data=str(texts), text_column="a", label_column="y", split_column="s",
            cache=str(cache), device="cpu", batch_tokens=64,
        )  # fmt: skip

    began = time.perf_counter()
    run(tmp_path / "whole")
    alone = time.perf_counter() - began
    (whole,) = (tmp_path / "whole").glob("*/mine.h5")
    expected = checksums(whole)
    assert {"train/last_hidden/values", "validation/mean", "train/text"} <= set(expected)

    path = tmp_path / "killed" / whole.parent.name / "mine.h5"
    chance, kills, finished = random.Random(0), 0, 0
    while kills < KILLS:
        before = rows_on_disk(path)
        child = fork(lambda: run(tmp_path / "killed"))
        time.sleep(chance.uniform(0, alone))
        os.kill(child, signal.SIGKILL)
        kills += ended(child) is None
        if path.exists():
            assert verify(path).good
            assert checksums(path) == expected
            run(tmp_path / "killed")  # whatever the kill left beside it is cleared away
            path.unlink()
            finished += 1
        else:
            after = rows_on_disk(path)
            assert all(after.get(split, 0) >= rows for split, rows in before.items())
    run(tmp_path / "killed")
    assert verify(path).good
    assert checksums(path) == expected
