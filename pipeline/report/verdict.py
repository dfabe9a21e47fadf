"""The verdict in words: what was found, what is equivalent, what stays open, and what cannot be concluded."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.report.contrasts import Contrast
from pipeline.report.inference import Estimate
from pipeline.report.model import Compared, Findings, is_kan

__all__ = ["Verdict", "conclude", "interval", "points", "signed"]

#: Parameters of the largest and smallest family with a hidden layer beyond which they are called unequal.
UNEQUAL = 1.5
#: Names and differences up to which a sentence lists each.
LISTED = 4
#: Seeds below which an interval is called wide.
FEW_SEEDS = 5
#: A difference from here on (half of what accuracy or F1 can differ by) excludes nothing that anyone would claim.
VAGUE = 0.5
#: Selection score minus reported score from which selection is said to flatter, in points.
GAP = 0.03
#: Shares of activations outside the grid, of dead units, and of heads still improving, that are warned of.
OUTSIDE, DEAD, IMPROVING = 0.25, 0.1, 0.5


@dataclass(frozen=True)
class Verdict:
    """One headline, a sentence for each setting, and what the report cannot say, each with its reason."""

    headline: str
    sentences: list[tuple[str, str]] = field(default_factory=list)
    cannot: list[str] = field(default_factory=list)


def signed(value: float) -> str:
    """A difference of scores in points (hundredths), with its sign."""
    return "–" if math.isnan(value) else f"{100 * value:+.1f}".replace("-", "−")


def points(value: float) -> str:
    """The size of a difference of scores in points."""
    shown = f"{abs(value) * 100:.1f}"
    return f"{shown} point{'' if shown == '1.0' else 's'}"


def interval(one: Estimate) -> str:
    """A difference with its interval: +0.6 [−1.6, +2.8]."""
    return f"{signed(one.value)} [{signed(one.low)}, {signed(one.high)}]"


def conclude(findings: Findings) -> Verdict:
    """Put the findings into words."""
    settings = findings.settings
    if not findings.heads:
        return Verdict(
            "Nothing can be concluded: there are no heads.",
            [], [f"{findings.path} holds no heads; train some with fit_heads.py sweep, then report again."],
        )  # fmt: skip
    if not settings:
        return Verdict(
            "Nothing can be concluded: every head diverged.",
            [], [*_diverged(findings), "Lower the learning rate (--lr) or clip more (--clip) and sweep again."],
        )  # fmt: skip
    sentences = [(one.label, _sentence(one, findings)) for one in settings]
    return Verdict(_headline(findings), sentences, _cannot(findings))


def _headline(findings: Findings) -> str:
    """What holds between KAN heads (any family, where there are none) and the first baseline, over tasks if it can."""
    contrasts = findings.contrasts
    marked = " (optimistic protocol)" if all(one.optimistic for one in findings.settings) else ""
    if len(findings.families) == 1:
        return f"No comparison: {findings.families[0]} is the only family{marked}."
    if not contrasts.planned:
        return f"No comparison: no two families were trained on the same task and features{marked}."
    for baseline in contrasts.baselines:
        single = _against(contrasts.planned, baseline)
        if single:
            # Two tasks say next to nothing about tasks in general.
            means = [one for one in _against(contrasts.means, baseline) if len(one.tasks) > 2]
            return _headline_against(baseline, single, means, findings) + marked + "."
    found = sum(one.estimate.found for one in contrasts.planned)
    return f"{found} of {len(contrasts.planned)} differences between families were found{marked}."


def _against(contrasts: Iterable[Contrast], baseline: str) -> list[Contrast]:
    """Contrasts with the baseline: those of KAN families, unless there are none."""
    mine = [one for one in contrasts if baseline in (one.first, one.second)]
    kans = [one for one in mine if is_kan(one.other(baseline)) and not is_kan(baseline)]
    return kans or mine


def _headline_against(baseline: str, single: Sequence[Contrast], means: Sequence[Contrast], findings: Findings) -> str:
    """What holds on average over tasks, else what holds on single tasks, else how large a difference may be."""
    tasks = {len(one.tasks) for one in means}
    over = f"over {tasks.pop()} tasks" if len(tasks) == 1 else "over the tasks that each has"
    gaps = [(one.other(baseline), one.above(one.other(baseline)), one) for one in means]
    better = [(name, gap) for name, gap, one in gaps if gap.low > 0 and _knows(name, one, findings)]
    worse = [(name, gap) for name, gap, one in gaps if gap.high < 0 and _knows(baseline, one, findings)]
    parts = []
    if better:
        parts.append(f"{_listed(better)} beat{'s' * (len(better) == 1)} {baseline} on average {over}")
    if worse:
        parts.append(f"{_listed(worse)} lose{'s' * (len(worse) == 1)} to {baseline} on average {over}")
    if parts:
        return "; ".join(parts)
    on_tasks = _on_tasks(baseline, single, findings)
    kind = "KAN head" if any(is_kan(one.other(baseline)) for one in single) else "family"
    if not means:
        return on_tasks or _nothing(kind, baseline, single, findings)
    name, gap, _ = max(gaps, key=lambda row: row[1].value)
    shown = f"{name} − {baseline}: {interval(gap)} {over}"
    if on_tasks:
        return f"{on_tasks}; on average the highest is {shown}: open"
    if all(gap.within(findings.margin) for _, gap, _ in gaps):
        return f"Every {kind} is within {_margin(findings)} of {baseline} on average; the highest is {shown}"
    return f"No {kind} was found to differ from {baseline}; on average the highest is {shown}"


def _on_tasks(baseline: str, contrasts: Sequence[Contrast], findings: Findings) -> str:
    """Which families beat a baseline, or lose to it, in single settings; empty where none does."""
    settings = {one.key: one for one in findings.settings}
    found: dict[tuple[str, str], list[tuple[str, Estimate]]] = {}
    for one in contrasts:
        name, setting = one.other(baseline), settings[one.setting]
        gap = one.above(name)
        if gap.found:
            ahead = gap.low > 0
            verb = f"beats {baseline}" if ahead else f"loses to {baseline}"
            if not _beats_guessing(setting, name if ahead else baseline):
                verb = f"scores {'above' if ahead else 'below'} {baseline}, but neither beats guessing,"
            found.setdefault((name, verb), []).append((setting.label, gap))
    parts = []
    for (name, verb), where in found.items():
        labels = ", ".join(label for label, _ in where)
        labels = labels if len(where) <= LISTED else f"{len(where)} of {len(settings)} tasks"
        parts.append(f"{name} {verb} on {labels}" + (f": {interval(where[0][1])} points" if len(where) == 1 else ""))
    return "; ".join(parts)


def _nothing(kind: str, baseline: str, contrasts: Sequence[Contrast], findings: Findings) -> str:
    """How large a difference may still be, where none was found."""
    where = f" on {findings.settings[0].label}" if len(findings.settings) == 1 else ""
    if all(one.estimate.within(findings.margin) for one in contrasts):
        return f"Every {kind} is within {_margin(findings)} of {baseline}{where}"
    bounds = [max(-one.estimate.low, one.estimate.high) for one in contrasts]
    if all(map(math.isnan, bounds)):
        largest = max(abs(one.estimate.value) for one in contrasts)
        return f"Open: these heads differ from {baseline} by up to {points(largest)}{where}, and nothing can test it"
    bound = max(one for one in bounds if not math.isnan(one))
    if not bound < VAGUE:
        return f"Open: with so few seeds or rows, no {kind} can be told from {baseline}{where}"
    return f"No {kind} was found to differ from {baseline}{where}; differences up to {points(bound)} remain possible"


def _listed(gaps: Sequence[tuple[str, Estimate]]) -> str:
    return ", ".join(f"{name} {interval(gap)}" for name, gap in gaps)


def _knows(family: str, one: Contrast, findings: Findings) -> bool:
    """Whether a family scores above guessing on any of the tasks: else it beats nobody."""
    return any(_beats_guessing(setting, family) for setting in findings.settings if setting.task in one.tasks)


def _beats_guessing(setting: Compared, family: str) -> bool:
    floor = setting.guess("majority")
    floor = setting.guess("chance") if floor is None else floor
    return family in setting.scores and (floor is None or float(setting.scores[family].scores.mean()) > floor)


def _margin(findings: Findings) -> str:
    return f"{100 * findings.margin:g} point{'' if findings.margin == 0.01 else 's'}"


def _sentence(setting: Compared, findings: Findings) -> str:
    """What was found in one setting."""
    if setting.problem:
        return f"Nothing can be said: {setting.problem}."
    best, line = max(setting.chosen.items(), key=lambda item: item[1].mean)
    alone = setting.intervals[best]
    known = "" if math.isnan(alone.low) else f", 95% interval {bounded(setting, alone)}"
    parts = [f"{best} scores highest ({setting.metric} {line.mean:.3f}{known})."]
    parts += _above_guessing(setting)
    for baseline in findings.contrasts.baselines:
        parts += _beside(setting, baseline, findings)
    if not any(baseline in setting.chosen for baseline in findings.contrasts.baselines):
        parts.append(f"No heads of {' or '.join(findings.contrasts.baselines)} to compare with.")
    return " ".join(parts)


def bounded(setting: Compared, one: Estimate) -> str:
    """An interval of a score, within what the metric can be."""
    from pipeline.metrics import METRICS

    metric = METRICS[setting.metric]
    low, high = (one.low, one.high) if metric.higher_is_better else (-one.high, -one.low)
    return f"{max(low, metric.lowest):.3f} to {min(high, metric.highest):.3f}"


def _above_guessing(setting: Compared) -> list[str]:
    """Which families are above the majority class (above the labels' mean, in regression), over new seeds and rows."""
    name = "majority" if "majority" in setting.guesses else "chance"
    mine = [one for one in setting.against_guesses if one.second == name and not math.isnan(one.estimate.low)]
    if not mine:
        return []
    what = "always answering the majority class" if name == "majority" else "always answering the mean"
    what = f"{what} ({setting.guess(name):.3f})"
    above = [one.first for one in mine if one.estimate.low > 0]
    missing = [one.first for one in mine if one.first not in above]
    if not above:
        return [f"No family is shown to be above {what}."]
    return [f"Not shown to be above {what}: {', '.join(missing)}."] if missing else [f"All are above {what}."]


def _beside(setting: Compared, baseline: str, findings: Findings) -> list[str]:
    """What was found against one baseline, what is equivalent to it, and what stays open."""
    mine = [one for one in setting.contrasts if baseline in (one.first, one.second)]
    # A pair of two baselines is told once, with the first of them.
    earlier = findings.contrasts.baselines[: findings.contrasts.baselines.index(baseline)]
    mine = [(one.other(baseline), one.above(one.other(baseline))) for one in mine if one.other(baseline) not in earlier]
    if not mine:
        return []
    parts = []
    for ahead, name in ((True, "beats"), (False, "loses to")):
        gaps = [(family, gap) for family, gap in mine if gap.found and (gap.value > 0) is ahead]
        for knows in (True, False):
            some = [
                (family, gap) for family, gap in gaps
                if _beats_guessing(setting, family if ahead else baseline) is knows
            ]  # fmt: skip
            if some:
                verb = name if knows else "scores above" if ahead else "scores below"
                listed = ", ".join(f"{family} {interval(gap)}" for family, gap in some)
                parts.append(
                    f"Found: {verb} {baseline}: {listed}" + ("." if knows else ", but neither beats guessing.")
                )
    alike = [family for family, gap in mine if not gap.found and gap.within(findings.margin)]
    if alike:
        parts.append(f"Equivalent to {baseline} within {_margin(findings)}: {', '.join(alike)}.")
    still = [gap for family, gap in mine if not gap.found and family not in alike]
    if still:
        bound = max(max(-gap.low, gap.high) for gap in still)
        which = "the others" if len(still) < len(mine) else "all" if len(mine) > 1 else mine[0][0]
        if not bound < VAGUE:
            parts.append(f"Open against {baseline}: {which} (too few seeds or rows to tell).")
        else:
            parts.append(f"Open against {baseline}: {which}, by up to {points(bound)}.")
    return parts


def _cannot(findings: Findings) -> list[str]:
    settings = findings.settings
    return [
        *(f"{one.label} is left out: {one.problem}." for one in settings if one.problem),
        *_seeds(findings), *_small(findings), *_flattered(settings), *_training(settings), *_encoders(settings),
        *_unequal(findings), *_diverged(findings), *_plans(findings),
        *(["Heads of the protocol 'published' are optimistic: the rows that are reported chose their epochs."]
          if any(one.optimistic for one in settings) else []),
        *(ranking.sentence for ranking in findings.rankings.values() if not ranking.enough),
    ]  # fmt: skip


def _seeds(findings: Findings) -> list[str]:
    counts = sorted({line.n for one in findings.settings for line in one.chosen.values()})
    said = []
    if counts and counts[0] == 1:
        said.append(
            "One seed" + ("" if counts == [1] else " of some families") + " says nothing about other seeds, so there "
            "is no interval. Sweep with --seeds 0:10."
        )
    few = [n for n in counts if 1 < n < FEW_SEEDS]
    if few:
        said.append(f"Only {few[0]} seeds: intervals are wide, and small differences stay open.")
    if len(findings.families) == 1:
        said.append("One family has nothing to be compared with. Add others with --head.")
    return said


def _small(findings: Findings) -> list[str]:
    """Settings whose planned comparisons could not have shown a difference as small as the margin."""
    said = []
    for one in findings.settings:
        seen = [c.estimate.detectable for c in one.contrasts if not math.isnan(c.estimate.detectable)]
        if not seen or min(seen) <= max(findings.margin, 0.01):
            continue
        span = points(min(seen))
        if f"{100 * min(seen):.1f}" != f"{100 * max(seen):.1f}":
            span = f"{100 * min(seen):.1f} to {points(max(seen))}"
        said.append(
            f"{one.label} ({one.rows:,} rows) shows a true difference with 80% probability only from {span} on, "
            "depending on the pair." if " to " in span else
            f"{one.label} ({one.rows:,} rows) shows a true difference with 80% probability only from {span} on."
        )  # fmt: skip
    return said


def _flattered(settings: Sequence[Compared]) -> list[str]:
    """Settings whose selection rows score above the reported ones: they may share sentences with training rows."""
    said = []
    for one in settings:
        gaps = [line.selection - line.mean for line in one.chosen.values() if line.selection is not None]
        if gaps and sum(gaps) / len(gaps) > GAP:
            said.append(
                f"{one.label}: selection rows score {points(sum(gaps) / len(gaps))} above the reported ones on "
                "average. What was chosen on them may be overfitted, or they share texts with training rows (--group)."
            )
    return said


def _training(settings: Sequence[Compared]) -> list[str]:
    said = []
    for one in settings:
        wide = [f"{name} {outside:.0%} outside" + (f", {dead:.0%} of units dead" if dead > DEAD else "")
                for name, (outside, dead) in one.coverage.items() if outside > OUTSIDE or dead > DEAD]  # fmt: skip
        if wide:
            said.append(f"{one.label}: activations of the worst layer leave the grid: {'; '.join(wide)}.")
        late = [name for name, share in one.improving.items() if share > IMPROVING]
        if late:
            said.append(f"{one.label}: most heads were still improving at their last epoch: {', '.join(late)}.")
    return said


def _encoders(settings: Sequence[Compared]) -> list[str]:
    by_task: dict[str, set[str]] = {}
    for one in settings:
        by_task.setdefault(one.task, set()).add(one.encoder)
    if len({frozenset(encoders) for encoders in by_task.values()}) < 2:
        return []
    listed = "; ".join(f"{task}: {', '.join(sorted(encoders))}" for task, encoders in by_task.items())
    return [
        f"Tasks have different encoders ({listed}), so tasks may differ by their encoders. Families are compared "
        "within a task and encoder only, and ranked for each encoder apart."
    ]


def _unequal(findings: Findings) -> list[str]:
    said = []
    tried: dict[str, set[int]] = {}
    for one in findings.settings:
        for family in one.chosen:
            tried.setdefault(family, set()).add(sum(line.head == family for line in one.lines))
    most = {family: max(counts) for family, counts in tried.items()}
    if len(set(most.values())) > 1:
        listed = ", ".join(f"{family} {count}" for family, count in most.items())
        said.append(f"Unequal search, configurations tried by family: {listed}. More trials find more.")
    hidden = {
        family: max(one.chosen[family].parameters for one in findings.settings if family in one.chosen)
        for family in most if family != "linear"
    }  # fmt: skip
    if hidden and max(hidden.values()) > UNEQUAL * min(hidden.values()):
        small, large = min(hidden, key=hidden.get), max(hidden, key=hidden.get)
        said.append(
            f"Parameters are not matched: {large} has up to {hidden[large]:,}, {small} {hidden[small]:,}. "
            "Sweep with --match params to compare at equal size."
        )
    seeds = {line.seeds for one in findings.settings for line in one.chosen.values() if line.n > 1}
    if len(seeds) > 1:
        said.append("Families do not all have the same seeds; only shared seeds are compared.")
    return said


def _diverged(findings: Findings) -> list[str]:
    lost: dict[str, int] = {}
    for line in {id(line.config): line for line in findings.lines}.values():
        if line.diverged:
            lost[line.head] = lost.get(line.head, 0) + line.diverged
    if not lost:
        return []
    listed = ", ".join(f"{count} of {family}" for family, count in lost.items())
    return [f"Diverged and left out of every mean: {listed}. A family that diverges looks better than it is."]


def _plans(findings: Findings) -> list[str]:
    plans = findings.contrasts.plans
    if len(plans) < 2:
        return []
    return [
        f"The tasks were planned in {len(plans)} sweeps. Each is corrected for itself, so that a later sweep takes "
        f"nothing back; among all of them up to {len(plans)} times 5% may be found by chance."
    ]
