"""Do the report's intervals hold, and what do they see? Simulated reports from the outputs of real heads.

    python fit_heads.py sweep --task cola,mrpc,rte,sst2 --head linear,mlp,effi_kan,fast_kan,faster_kan \
        --encoder minilm --seeds 0:48
    python benchmarks/inference.py runs/results.sqlite [--reports 2000]

The heads of a sweep are a population of seeds, the rows of its tasks one of rows. A simulated report draws seeds
(shared by the families) and as many rows as the task has, with replacement, and goes through the report's own
inference; what is true of the population is known. Three populations: `alike`, five times the same family under other
names; `balanced`, the real families, with rows weighted until none of them differs from the baseline (so each still
prefers rows of its own); `real`, as they are. Writes benchmarks/inference.md.
"""

import argparse
import platform
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pipeline.metrics import METRICS, count_metrics
from pipeline.report.contrasts import Setting, compare
from pipeline.report.inference import ALPHA, Scores, constant, corrected, difference

PAGE = Path(__file__).with_suffix(".md")
#: The baseline, the second one, and the others.
FAMILIES = ("mlp", "linear", "effi_kan", "fast_kan", "faster_kan")
BASELINE = FAMILIES[0]
SEEDS = (5, 10, 30)


@dataclass(frozen=True)
class Population:
    """One task: labels [rows], what every head of every family predicts [families, seeds, rows], weights of rows."""

    task: str
    metric: str
    labels: np.ndarray
    predicted: np.ndarray
    classes: int
    weights: np.ndarray

    def truth(self, weights=None):
        """The population's scores, means over its seeds, [families]."""
        weights = self.weights if weights is None else weights
        heads = self.predicted.reshape(-1, len(self.labels))
        if self.classes == 1:
            scores = _weighted_correlations(self.metric, heads, self.labels, weights)
        else:
            cells = self.labels * self.classes + heads
            counts = np.stack([(cells == cell) @ weights for cell in range(self.classes**2)], 1)
            scores = count_metrics(counts.reshape(-1, self.classes, self.classes))[self.metric]
        return scores.reshape(self.predicted.shape[:2]).mean(1)

    def samples(self, rng, seeds):
        """What a sweep of so many seeds would show of each family."""
        count = len(self.labels)
        rows = rng.choice(count, count, p=self.weights / self.weights.sum())
        chosen = rng.integers(0, self.predicted.shape[1], seeds)
        return self.scored(self.predicted[:, chosen][:, :, rows], self.labels[rows])

    def scored(self, predicted, labels):
        """Scores of predictions [families, seeds, rows]."""
        metric, seeds = METRICS[self.metric], tuple(range(predicted.shape[1]))
        flat = predicted.reshape(-1, len(labels))
        scores = metric.score(flat, labels, self.classes).reshape(predicted.shape[:2])
        influence = metric.influence(flat, labels, self.classes).reshape(predicted.shape)
        step = metric.step / len(labels)
        return [Scores(seeds, *one, step) for one in zip(scores, influence, strict=True)]


def _weighted_correlations(metric, values, labels, weights):
    def pearson(x, y):
        x, y = (one - (one @ weights)[..., None] / weights.sum() for one in (x, y))
        return (x * y) @ weights / np.sqrt((x**2 @ weights) * (y**2 @ weights))

    def ranks(one):
        order = np.argsort(one, -1, kind="stable")
        sums = np.take(weights, order).cumsum(-1) - np.take(weights, order) / 2
        found = np.empty_like(sums)
        np.put_along_axis(found, order, sums, -1)
        for value in np.unique(labels) if one.ndim == 1 else ():  # equal labels share a rank
            found[one == value] = np.average(found[one == value], weights=weights[one == value])
        return found

    if metric == "r2":
        mean = labels @ weights / weights.sum()
        return 1 - (values - labels) ** 2 @ weights / ((labels - mean) ** 2 @ weights)
    return (pearson(values, labels) + pearson(ranks(values), ranks(labels))) / 2


def populations(results, families=FAMILIES, split="validation"):
    """The tasks of a results database whose families all have heads, with the seeds that they share."""
    from pipeline.sweep.results import Results

    found = []
    with Results(results) as store:
        heads = [head for head in store.heads() if head["status"] == "trained" and head["head"] in families]
        for task in dict.fromkeys(head["task"] for head in heads):
            mine = [head for head in heads if head["task"] == task]
            ids = {(head["head"], head["seed"]): head["id"] for head in mine}
            shared = sorted(set.intersection(*({s for f, s in ids if f == family} for family in families)))
            outputs = np.array([[store.outputs(ids[f, s], split) for s in shared] for f in families])
            labels, classes = store.labels(mine[0]["fingerprint"], split), outputs.shape[3]
            predicted = outputs[..., 0].astype(float) if classes == 1 else outputs.argmax(3)
            labels = labels.astype(float if classes == 1 else np.int64)
            weights = np.full(len(labels), 1 / len(labels))
            metrics = ("r2", "pearson_spearmanr") if classes == 1 else (mine[0]["main_metric"],)
            found += [Population(task, metric, labels, predicted, classes, weights) for metric in metrics]
    return found


def alike(population, family=0):
    """The same family under every name: its seeds are dealt out anew for each."""
    rng = np.random.default_rng(0)
    dealt = [population.predicted[family][rng.permutation(population.predicted.shape[1])]
             for _ in population.predicted]  # fmt: skip
    return replace(population, predicted=np.stack(dealt))


def balanced(population, gaps=None):
    """The population with rows weighted until the families differ from the baseline by `gaps` (by nothing).

    Weights are exponential in the rows' influences on the differences, as in exponentially tilted bootstraps.
    """
    from scipy.optimize import root

    others, baseline = list(range(1, len(population.predicted))), 0
    wanted = np.zeros(len(others)) if gaps is None else np.asarray(gaps)
    influence = np.stack([one.influence.mean(0) for one in population.scored(population.predicted, population.labels)])
    slopes = influence[others] - influence[baseline]
    slopes = slopes / slopes.std(1, keepdims=True)

    def weights(tilt):
        raw = tilt @ slopes
        raw = np.exp(raw - raw.max())
        return raw / raw.sum()

    def miss(tilt):
        scores = population.truth(weights(tilt))
        return scores[others] - scores[baseline] - wanted

    solved = root(miss, np.zeros(len(others)), tol=1e-9)
    if np.abs(miss(solved.x)).max() > 1e-4:
        raise RuntimeError(f"{population.task}: rows could not be weighted to differences of {wanted}")
    return replace(population, weights=weights(solved.x))


def report_of(tasks, rng, seeds):
    """One simulated report."""
    return compare({
        number: Setting(str(number), dict(zip(FAMILIES, task.samples(rng, seeds), strict=False)), {})
        for number, task in enumerate(tasks)
    })  # fmt: skip


def simulate(tasks, reports, seeds, seed=0):
    """Shares over reports and means over reports, as a dictionary.

    `found` anything called found; `single`, `means` found in a setting, on average over tasks; `alone` [contrasts]
    intervals of single contrasts that hold the truth, `together` reports whose intervals all do.
    """
    rng = np.random.default_rng((seed, seeds))
    scores = [dict(zip(FAMILIES, task.truth(), strict=False)) for task in tasks]
    single, means, alone, together, each = [], [], [], [], []
    for _ in range(reports):
        done = report_of(tasks, rng, seeds)
        truth = [scores[one.setting][one.first] - scores[one.setting][one.second] for one in done.planned]
        each.append([one.estimate.found for one in done.planned])
        single.append(any(each[-1]))
        means.append(any(one.estimate.found for one in done.means))
        hold = [(one.estimate.low <= t <= one.estimate.high) for one, t in zip(done.planned, truth, strict=True)]
        together.append(all(hold))
        alone.append([one.low <= t <= one.high for (one,), t in zip(
            [corrected([contrast.estimate]) for contrast in done.planned], truth, strict=True)])  # fmt: skip
    return {
        "found": np.mean(np.logical_or(single, means)), "single": np.mean(single), "means": np.mean(means),
        "alone": np.mean(alone, 0), "together": np.mean(together), "each": np.mean(each, 0),
    }  # fmt: skip


def noise(tasks, reports, seeds, seed=0):
    """Share of reports in which heads that know nothing (labels drawn apart from outputs) beat the majority class."""
    rng, wrong = np.random.default_rng((seed, seeds)), 0
    for _ in range(reports):
        estimates = []
        for task in tasks:
            if task.classes == 1:
                continue
            count = len(task.labels)
            labels = task.labels[rng.integers(0, count, count)]
            chosen = rng.integers(0, task.predicted.shape[1], seeds)
            predicted = task.predicted[:, chosen][:, :, rng.integers(0, count, count)]
            metric = METRICS[task.metric]
            guess = np.full((1, count), np.bincount(task.labels).argmax())
            majority = constant(
                float(metric.score(guess, labels, task.classes)[0]), metric.influence(guess, labels, task.classes)[0],
                metric.step / count,
            )  # fmt: skip
            estimates += [difference(one, majority) for one in task.scored(predicted, labels)]
        wrong += any(one.low > 0 for one in corrected(estimates))
    return wrong / reports


def old_pair_of_tests(tasks, rng, seeds):
    """What the report said before: a paired t test over seeds and McNemar's test over rows, Holm over all pairs."""
    from itertools import combinations

    from scipy import stats

    keys, over_seeds, over_rows, signs = [], [], [], []
    for number, task in enumerate(tasks):
        count = len(task.labels)
        rows = rng.choice(count, count, p=task.weights / task.weights.sum())
        chosen = rng.integers(0, task.predicted.shape[1], seeds)
        predicted, labels = task.predicted[:, chosen][:, :, rows], task.labels[rows]
        scores = [one.scores for one in task.scored(predicted, labels)]
        if task.classes == 1:
            merits = [-((one.mean(0) - labels) ** 2) for one in predicted]
        else:
            merits = [(np.eye(task.classes)[one].mean(0).argmax(1) == labels) for one in predicted]
        for a, b in combinations(range(len(scores)), 2):
            gap = scores[a] - scores[b]
            spread = max(gap.var(ddof=1), (METRICS[task.metric].step / count) ** 2 / 6)
            over_seeds.append(2 * stats.t.sf(abs(gap.mean()) / np.sqrt(spread / seeds), seeds - 1))
            if task.classes == 1:
                over_rows.append(stats.ttest_rel(merits[a], merits[b]).pvalue)
                sign = (merits[a] - merits[b]).mean()
            else:
                wins, losses = (merits[a] & ~merits[b]).sum(), (~merits[a] & merits[b]).sum()
                over_rows.append(stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0)
                sign = wins - losses
            signs.append(sign * gap.mean() > 0)
            keys.append((number, a, b))
    p = np.array(over_seeds + over_rows)
    order = np.argsort(p)
    q = np.empty(len(p))
    q[order] = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    both = (q[: len(keys)] < ALPHA) & (q[len(keys) :] < ALPHA) & np.array(signs)
    return {key for key, yes in zip(keys, both, strict=True) if yes}


def improved(population, shift, family=2):
    """The population with one family better by `shift`: some of its mistakes, drawn anew for each seed, are mended."""
    predicted, before = population.predicted.copy(), population.truth()[family]
    draws = np.random.default_rng(0).random(predicted[family].shape)
    low, high = 0.0, 1.0
    for _ in range(20):
        share = (low + high) / 2
        if population.classes == 1:
            predicted[family] = population.predicted[family] * (1 - share) + share * population.labels
        else:
            predicted[family] = np.where(draws < share, population.labels, population.predicted[family])
        better = replace(population, predicted=predicted)
        low, high = (share, high) if better.truth()[family] - before < shift else (low, share)
    return better


def contrast_of(done, target, family=FAMILIES[2]):
    """The planned contrast of a family with the baseline on a task."""
    wanted = (target, family, BASELINE)
    return next(one.estimate for one in done.planned if (one.setting, one.first, one.second) == wanted)


def called_detectable(tasks, seeds, target, reports=60):
    """The true difference that reports call detectable where it is there; nothing else differs."""
    shift = 0.0
    for _ in range(4):
        rng = np.random.default_rng(seeds)
        changed = [*tasks[:target], improved(tasks[target], shift), *tasks[target + 1 :]]
        shift = np.mean([contrast_of(report_of(changed, rng, seeds), target).detectable for _ in range(reports)])
    return shift


def power(tasks, reports, seeds, shift, target):
    """How often a true difference is found: of `shift` between a family and the baseline on one task, by number.

    Shares of reports in which the intervals, and the old pair of tests, find it; nothing else differs.
    """
    tasks = [*tasks[:target], improved(tasks[target], shift), *tasks[target + 1 :]]
    first, second = np.random.default_rng(seeds), np.random.default_rng(seeds)
    new = sum(contrast_of(report_of(tasks, first, seeds), target).found for _ in range(reports))
    old = sum((target, 0, 2) in old_pair_of_tests(tasks, second, seeds) for _ in range(reports))
    return new / reports, old / reports


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", help="results databases of the heads to draw from")
    parser.add_argument("--reports", type=int, default=2000)
    given = parser.parse_args()
    begin, reports = time.perf_counter(), given.reports
    real = [task for path in given.results for task in populations(path)]
    same, level = [alike(task) for task in real], [balanced(task) for task in real]
    text = [
        "# Do the report's intervals hold, and what do they see?",
        "",
        f"{reports:,} simulated reports a line, drawn from the outputs of {real[0].predicted.shape[1]} heads of "
        f"each of {len(FAMILIES)} families ({', '.join(FAMILIES)}) on " + ", ".join(
            f"{task.task} ({task.metric}, {len(task.labels):,} rows)" for task in real) + ".",
        f"Planned: every family against {BASELINE} and linear in every task, against {BASELINE} on average over tasks.",
        "",
        "## Nothing is there",
        "",
        "Shares of reports that call anything found, in a single task or on average over tasks; coverage of single "
        "95% intervals (least and most covered contrast, mean), and of all corrected intervals together. `alike`: one "
        "family under five names; `balanced`: the real families, rows weighted until none differs; `real`: as they "
        "are, so that only coverage counts.",
        "",
        "| population | seeds | anything found | in a task | over tasks | least covered | most | mean | all together |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, tasks in (("alike", same), ("balanced", level), ("real", real)):
        for seeds in SEEDS:
            shares = simulate(tasks, reports, seeds)
            alone = shares["alone"]
            found = ["–"] * 3 if name == "real" else [f"{shares[key]:.2%}" for key in ("found", "single", "means")]
            covered = [f"{value:.1%}" for value in (alone.min(), alone.max(), alone.mean(), shares["together"])]
            text.append(f"| {name} | {seeds} | " + " | ".join([*found, *covered]) + " |")
            print(text[-1], flush=True)
    text += [
        "", "## Heads that know nothing", "",
        "Outputs and labels drawn apart: shares of reports in which any family is said to be above the majority class.",
        "", "| seeds | above the majority class |", "|---|---|",
    ]  # fmt: skip
    for seeds in SEEDS:
        text.append(f"| {seeds} | {noise(real, reports, seeds):.2%} |")
        print(text[-1], flush=True)
    text += [
        "", "## Power", "",
        f"A true difference between {FAMILIES[2]} and {BASELINE} in one task, of the size that reports of it call "
        "detectable with 80% power (mean over reports; some mistakes of one family are mended); how often it is found, "
        "and by the pair of tests of earlier reports (paired t over seeds and McNemar over rows, Holm over all pairs).",
        "", "| task | seeds | true difference, points | found | found before |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for number in range(len(real)):
        for seeds in SEEDS:
            text.append(
                _power_line(level, max(reports // 4, 1), seeds, called_detectable(level, seeds, number), number)
            )
            print(text[-1], flush=True)
    for number, task in enumerate(real):
        if task.task == "sst2":
            text.append(_power_line(level, reports, 10, 0.03, number))
            print(text[-1], flush=True)
    text += [
        "",
        f"`python benchmarks/inference.py RESULTS --reports {reports}`: {time.perf_counter() - begin:.0f} s on one "
        f"core, busy with other work ({platform.machine()}), Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy")) + ".",
    ]  # fmt: skip
    PAGE.write_text("\n".join(text) + "\n")


def _power_line(tasks, reports, seeds, shift, number):
    new, old = power(tasks, reports, seeds, shift, number)
    name = f"{tasks[number].task}, {tasks[number].metric}"
    return f"| {name} | {seeds} | {100 * shift:.1f} | {new:.1%} | {old:.1%} |"


if __name__ == "__main__":
    main()
