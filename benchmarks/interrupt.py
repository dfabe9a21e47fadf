"""Interrupt commands at random moments, and look at how each ends.

    python benchmarks/interrupt.py [--times 92] [--folder DIR]

A sweep, a stage-one import and a report get SIGINT or SIGTERM after a random time between their start and their end.
Each must end within 15 seconds with status 130, or be done with status 0, and write no traceback.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commands(folder: Path) -> list[list[str]]:
    places = ["--cache", str(folder / "cache")]
    results = ["--results", str(folder / "r.sqlite")]
    return [
        ["embed.py", "toy", "moons", "--force", *places],
        ["fit_heads.py", "sweep", "--task", "moons", "--head", "mlp,effi_kan", "--seeds", "0:40", "--lr",
         "{lr}", "--epochs", "20", *places, *results],
        ["fit_heads.py", "table", *results],
        ["fit_heads.py", "report", "--out", str(folder / "report.html"), *places, *results],
    ]  # fmt: skip


def run(command: list[str], after: float | None, number: int) -> tuple[float, int, str]:
    began = time.monotonic()
    done = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if after is not None:
        time.sleep(after)
        done.send_signal(number)
        began = time.monotonic()
    _, text = done.communicate(timeout=120)
    return time.monotonic() - began, done.returncode, text


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--times", type=int, default=92)
    options.add_argument("--folder", type=Path)
    given = options.parse_args()
    drawn, faults, ends = random.Random(0), [], {0: 0, 130: 0}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        lengths = [run([part.format(lr=0.002) for part in one], None, 0)[0] for one in commands(folder)]
        for time_ in range(given.times):
            which = time_ % len(lengths)
            command = [part.format(lr=0.001 + 0.00001 * time_) for part in commands(folder)[which]]
            # The interpreter's own start, before any of our code runs, is not ours.
            after = drawn.uniform(0.08, 1.1 * lengths[which])
            number = drawn.choice((signal.SIGINT, signal.SIGTERM))
            seconds, status, text = run(command, after, number)
            ends[status] = ends.get(status, 0) + 1
            fault = "Traceback" in text or "Exception ignored" in text or status not in (0, 130) or seconds > 15
            fault |= status == 130 and text.count("interrupted") != 1
            if fault:
                faults.append(
                    f"{command[:2]} after {after:.2f} s, {number.name}: {status}, {seconds:.1f} s, {text[-300:]!r}"
                )
    print(f"{given.times} interrupts; ends by status {ends}; faults {len(faults)}")
    print("\n".join(faults))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
