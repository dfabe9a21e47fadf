"""How often do the report's tests find something where nothing is? Simulated sweeps of equal families.

    python benchmarks/null_sweeps.py [--sweeps 2000]

A sweep has five families on four tasks with GLUE's validation sizes (RTE 277, MRPC 408, SST-2 872, CoLA 1,043) and
their metrics; a row is right when row + replicate + chance says so, replicates being shared by families, as seeds are.
Nulls: `seeds`, families differ by chance alone, as much as real heads do; `quiet`, heads of one family hardly differ
between seeds (scores repeat); `rows`, each family prefers rows of its own, none on average: on these very rows families
do differ, on new rows they do not. Writes benchmarks/null_sweeps.md.
"""

import argparse
import gc
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pipeline.metrics import classification_metrics
from pipeline.report.rows import influence, step_of
from pipeline.report.statistics import ALPHA, Sample, compare

PAGE = Path(__file__).with_suffix(".md")
TASKS = {
    "rte": (277, "accuracy", 0.53, 0.1), "mrpc": (408, "f1", 0.68, 0.6), "sst2": (872, "accuracy", 0.51, 0.9),
    "cola": (1043, "matthews_correlation", 0.69, 0.5),
}  # fmt: skip
#: Standard deviations of a row's difficulty, what a replicate adds to it (for all families alike), chance of one head,
#: and a family's own preference for rows.
NULLS = {"seeds": (1.0, 0.3, 0.6, 0.0), "quiet": (1.0, 0.02, 0.02, 0.0), "rows": (1.0, 0.3, 0.4, 0.5)}


def simulated(rng, replicates, null, families=5):
    """Places and steps as `compare` takes them."""
    row_spread, shared_spread, own_spread, family_spread = NULLS[null]
    places, steps = {}, {}
    for task, (rows, metric, share, skill) in TASKS.items():
        labels = (rng.random(rows) < share).astype(np.int64)
        level = skill + row_spread * rng.standard_normal(rows, np.float32)
        level = level + shared_spread * rng.standard_normal((replicates, rows), np.float32)
        own = own_spread * rng.standard_normal((families, replicates, rows), np.float32)
        taste = family_spread * rng.standard_normal((families, 1, rows), np.float32)
        right = level + own + taste > 0
        predicted = np.where(right, labels, 1 - labels)
        samples = []
        for family in range(families):
            scores = classification_metrics(predicted[family], labels, 2)[metric]
            votes = np.where(np.eye(2)[predicted[family]] > 0, 1.0, 0.0)
            merit = right[family].mean(0) > 0.5
            samples.append(Sample(f"f{family}", range(replicates), scores, merit, influence(metric, votes, labels)))
        places[task], steps[task] = samples, step_of(metric, rows)
    return places, steps


def rates(sweeps, replicates, null, seed=0):
    """Shares of sweeps in which the tests reject anything: (both kinds together, over seeds alone, by row alone,
    a difference called found), and of intervals that miss 0.
    """
    rng = np.random.default_rng((seed, replicates, list(NULLS).index(null)))
    counts = np.zeros(5)
    for _ in range(sweeps):
        found = compare(*simulated(rng, replicates, null))
        seeds = any(one.q_seeds < ALPHA for one in found)
        rows = any(one.q_rows < ALPHA for one in found)
        missed = any(one.low > 0 or one.high < 0 for one in found)
        counts += (seeds or rows, seeds, rows, any(one.found for one in found), missed)
    return counts / sweeps


def write_page(table, sweeps, seconds):
    text = [
        "# Sweeps in which nothing is to be found",
        "",
        f"{sweeps:,} simulated sweeps for each line: five equal families, four tasks (277 to 1,043 rows; accuracy, F1,",
        "Matthews correlation), 40 pairs, 80 tests, all corrected together (Holm, 5%). Shares of sweeps in which",
        "anything at all is rejected by the corrected tests, by those over seeds, by those over rows; in which the",
        "report calls a difference found (both reject, same direction); in which any simultaneous interval leaves",
        "out 0.",
        "",
        "| null | replicates | any test | over seeds | by row | called found | intervals |",
        "|---|---|---|---|---|---|---|",
        *table,
        "",
        "`seeds`: families differ by chance alone; `quiet`: heads of a family hardly differ between seeds, so that",
        "scores repeat; `rows`: every family has rows of its own that it prefers, none on average. Under `rows` the",
        "families do differ on these very rows, so the test over seeds is right to say so, and wrong as an answer for",
        "new rows: a difference counts as found only where the test by row agrees.",
        "",
        f"`python benchmarks/null_sweeps.py --sweeps {sweeps}`: {seconds:.0f} s on one core, busy with other work "
        f"({platform.machine()}), Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "statsmodels")) + ".",
    ]  # fmt: skip
    PAGE.write_text("\n".join(text) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=2000)
    sweeps = parser.parse_args().sweeps
    gc.freeze()  # statsmodels collects garbage at every correction
    begin, table = time.perf_counter(), []
    for null in NULLS:
        for replicates in (5, 10, 30):
            shares = rates(sweeps, replicates, null)
            table.append(f"| {null} | {replicates} | " + " | ".join(f"{share:.2%}" for share in shares) + " |")
            print(table[-1], flush=True)
    write_page(table, sweeps, time.perf_counter() - begin)


if __name__ == "__main__":
    main()
