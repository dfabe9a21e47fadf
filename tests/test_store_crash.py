"""Kills, full disks: nothing that was committed is lost or done again, and the finished file is the same."""

import errno
import os
import random
import resource
import signal
import subprocess
import time

import pytest

from pipeline.errors import CacheError
from pipeline.store import CacheWriter, verify
from pipeline.store.journal import read_journal, work_folder
from tests.helpers import store_kit as kit

KILLS = 30
CALLS = ("pwrite", "pwritev", "fdatasync", "fsync", "ftruncate", "replace", "unlink", "rmdir", "open")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    kit.write(path)
    return path.read_bytes()


def committed(path) -> int:
    """Blocks that the journal holds."""
    return sum("block" in record.header for record in read_journal(work_folder(path) / "journal"))


def log(path):
    """Something to be told of each block, that a killed process' reader can count."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda block: os.write(descriptor, f"{block.split} {block.start}\n".encode())


def test_killed_at_random_moments(tmp_path, whole):
    chance = random.Random(1)
    kills, files, done = 0, 0, 0
    path, blocks = tmp_path / "toy.h5", tmp_path / "blocks"
    while kills < KILLS:
        before = committed(path)
        blocks.write_bytes(b"")
        child = kit.fork(lambda: kit.write(path, seen=log(blocks)))
        time.sleep(chance.uniform(0.005, 0.08))
        os.kill(child, signal.SIGKILL)
        status = kit.ended(child)
        kills += status is None
        begun = blocks.read_text().split("\n")[:-1]
        expected = [f"{split} {start}" for split, rows in kit.SPLITS.items() for start in range(0, rows, 64)]
        # The empty split is one block in the journal that no caller sees.
        first = before - (before > 16)
        assert begun == expected[first : first + len(begun)], "a committed block was done again, or one was left out"
        if path.exists():
            assert path.read_bytes() == whole
            kit.write(path)  # whatever the kill left behind is cleared away
            assert os.listdir(tmp_path) in (["toy.h5", "blocks"], ["blocks", "toy.h5"])
            path.unlink()
            files += 1
            done = 0
        else:
            assert status is None
            assert committed(path) >= done
            done = committed(path)
    kit.write(path)
    assert path.read_bytes() == whole
    assert files < KILLS


def run_until(path, count: int, torn: bool) -> None:
    """Write, and die at the `count`-th call that changes the disk, in the middle of it if `torn`."""
    left = count

    def wrap(name):
        call = getattr(os, name)

        def deadly(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                if torn and name == "pwritev":
                    call(args[0], [memoryview(args[1][0]).cast("B")[: len(args[1][0]) // 2]], *args[2:])
                elif torn and name == "pwrite":
                    call(args[0], args[1][: len(args[1]) // 2], *args[2:])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return deadly

    for name in CALLS:
        setattr(os, name, wrap(name))
    kit.write(path)


def test_killed_at_every_kind_of_system_call(tmp_path, whole):
    # Resumed runs die at every one of their first 20 calls, then later ones, in the middle of it too.
    counts = [*range(1, 21), 25, 30, 35, 40]
    kills = 0
    for torn in (False, True):
        path = tmp_path / f"{torn}.h5"
        for count in counts:
            before = committed(path)
            status = kit.ended(kit.fork(lambda path=path, count=count, torn=torn: run_until(path, count, torn)))
            kills += status is None
            if path.exists():
                assert path.read_bytes() == whole
                assert kit.write(path) == 0
                assert not work_folder(path).exists()
                path.unlink()
            else:
                assert status is None
                assert committed(path) >= before
        kit.write(path)
        assert path.read_bytes() == whole
    assert kills >= 30


def limited(path, size: int, outcome) -> None:
    """Write under a limit on the size of files, as on a disk that is full at `size` bytes; note what came of it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        kit.write(path)
        text = "finished"
    except CacheError as error:
        text = f"CacheError {error}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    outcome.write_text(text)


def test_full_disk_loses_nothing(tmp_path, whole):
    path, outcome = tmp_path / "toy.h5", tmp_path / "outcome"
    before = 0
    for size in (0, 30, 5_000, len(whole) // 3, len(whole) // 2, len(whole) // 2, len(whole) - 3000, len(whole) - 1):
        assert kit.ended(kit.fork(lambda size=size: limited(path, size, outcome))) == 0
        text = outcome.read_text()
        assert text.startswith("CacheError ")
        assert "cannot write (File too large); make room and run the same command again" in text
        assert "\n" not in text
        assert not path.exists()
        assert committed(path) >= before
        before = committed(path)
        data = work_folder(path) / "data.h5"
        if data.exists():
            assert data.stat().st_size <= size + 48
    assert before == 19 + 1
    assert kit.write(path) == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("call", ["fdatasync", "pwritev"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_errors_of_the_disk_come_out_as_one_line(tmp_path, whole, monkeypatch, call, code):
    path, real, calls = tmp_path / "toy.h5", getattr(os, call), []

    def failing(*args):
        calls.append(args)
        if len(calls) == 7:
            raise OSError(code, os.strerror(code))
        return real(*args)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(CacheError, match=os.strerror(code)):
        kit.write(path)
    monkeypatch.undo()
    assert 0 < kit.write(path) < 19, "the same process goes on where it stopped"
    assert path.read_bytes() == whole


def test_small_tmpfs(tmp_path, whole):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={len(whole) * 6 // 10 // 4096 * 4096}", "none", str(place)]
    try:
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount")
    except FileNotFoundError:
        pytest.skip("needs mount")
    try:
        path = place / "toy.h5"
        with pytest.raises(CacheError, match=r"cannot write .No space left on device."):
            kit.write(path)
        held = committed(path)
        assert held > 2
        with pytest.raises(CacheError, match=r"cannot write .No space left on device."):
            kit.write(path)
        assert committed(path) >= held
        subprocess.run(["mount", "-o", f"remount,size={len(whole) * 4}", str(place)], check=True)
        assert kit.write(path) <= 19 - held + 1
        assert path.read_bytes() == whole
    finally:
        subprocess.run(["umount", str(place)], check=False, capture_output=True)


def test_damaged_partial_work_is_noticed(tmp_path):
    path = tmp_path / "toy.h5"
    kit.write(path, stop_after=5)
    data = work_folder(path) / "data.h5"
    spoilt = bytearray(data.read_bytes())
    spoilt[5000] ^= 4
    data.write_bytes(spoilt)
    with pytest.raises(CacheError, match="--force"):
        kit.write(path)
    assert kit.write(path, force=True) == 19 or verify(path).good


def test_a_torn_journal_costs_one_block(tmp_path, whole):
    path = tmp_path / "toy.h5"
    kit.write(path, stop_after=6)
    journal = work_folder(path) / "journal"
    assert committed(path) == 6
    journal.write_bytes(journal.read_bytes()[:-7])
    assert committed(path) == 5
    with CacheWriter(path, kit.ATTRIBUTES, kit.SPLITS, kit.ALL, kit.WIDTHS) as writer:
        assert writer.resumed_blocks == 5
    kit.write(path)
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match=r"cannot write .Not a directory.; mend that"):
        kit.write(tmp_path / "file" / "toy.h5")
