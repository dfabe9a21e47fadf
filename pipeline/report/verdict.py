"""The verdict in words: what was found, how large a difference can be excluded, and what cannot be concluded."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.report.model import Findings, Place, is_kan
from pipeline.report.statistics import Comparison

__all__ = ["Verdict", "conclude", "points", "reference_of"]

#: Parameters of the largest and smallest family with a hidden layer beyond which they are called unequal.
UNEQUAL = 1.5
#: Places up to which the headline names each.
LISTED = 4
#: Replicates below which an interval over seeds is called wide.
FEW_SEEDS = 5
#: A bound from here on (half of what accuracy or F1 can differ by) excludes nothing that anyone would claim.
VAGUE = 0.5


@dataclass(frozen=True)
class Verdict:
    """One headline, a sentence for each place, and what the report cannot say, each with its reason."""

    headline: str
    sentences: list[tuple[str, str]] = field(default_factory=list)
    cannot: list[str] = field(default_factory=list)


def points(value: float) -> str:
    """A difference of scores in points (hundredths)."""
    shown = f"{abs(value) * 100:.1f}"
    return f"{shown} point{'' if shown == '1.0' else 's'}"


def reference_of(place: Place) -> str | None:
    """The family that others are held against: `mlp`, else `linear`, else the first."""
    return next((name for name in ("mlp", "linear", *place.chosen) if name in place.chosen), None)


def _turned(one: Comparison, first: str) -> tuple[str, float]:
    """The other family, and how much `first` scores above it."""
    return (one.second, one.difference) if one.first == first else (one.first, -one.difference)


def conclude(findings: Findings) -> Verdict:
    """Put the findings into words."""
    places = findings.places
    if not findings.heads:
        return Verdict(
            "Nothing can be concluded: there are no heads.",
            [], [f"{findings.path} holds no heads that match; train some with fit_heads.py sweep, then report again."],
        )  # fmt: skip
    if not places:
        return Verdict(
            "Nothing can be concluded: every head diverged.",
            [], [*_diverged(findings), "Lower the learning rate (--lr) or clip more (--clip) and sweep again."],
        )  # fmt: skip
    return Verdict(_headline(findings), [(place.label, _sentence(place)) for place in places], _cannot(findings))


def _kan_against_mlp(place: Place) -> list[tuple[str, str, Comparison, float]]:
    """(KAN, reference, comparison, how much the KAN scores above) for every KAN family of a place."""
    reference = reference_of(place)
    if reference is None or is_kan(reference):
        return []
    pairs = []
    for one in place.comparisons:
        if reference in (one.first, one.second):
            other, below = _turned(one, reference)
            if is_kan(other):
                pairs.append((other, reference, one, -below))
    return pairs


def _headline(findings: Findings) -> str:
    against = [(place, *pair) for place in findings.places for pair in _kan_against_mlp(place)]
    marked = " (optimistic protocol)" if any(place.optimistic for place in findings.places) else ""
    if not against:
        if len(findings.families) == 1:
            return f"No comparison: {findings.families[0]} is the only family{marked}."
        if not findings.comparisons:
            return f"No comparison: no two families were trained on the same task and features{marked}."
        found = [one for one in findings.comparisons if one.found]
        if found:
            return f"{len(found)} of {len(findings.comparisons)} differences between families hold{marked}."
        return _nothing(findings, findings.comparisons, "between families", marked)
    reference = " and ".join(sorted({reference for _, _, reference, _, _ in against}))
    better = [(place, kan) for place, kan, _, one, gap in against if one.found and gap > 0]
    worse = [(place, kan) for place, kan, _, one, gap in against if one.found and gap < 0]
    total = len({place.key for place, *_ in against})
    if better and worse:
        return (
            f"It depends: a KAN head beats {reference} on {_tasks(better)}, and loses to it on {_tasks(worse)}{marked}."
        )
    if better:
        return f"A KAN head beats {reference} on {_tasks(better)}, of {total} compared{marked}."
    if worse:
        return (
            f"No KAN head beats {reference}; on {_tasks(worse)}, of {total} compared, a KAN head loses to it{marked}."
        )
    return _nothing(findings, [one for *_, one, _ in against], f"between KAN heads and {reference}", marked)


def _tasks(found: Sequence[tuple[Place, str]]) -> str:
    families: dict[str, list[str]] = {}
    for place, kan in found:
        families.setdefault(place.label, []).append(kan)
    if len(families) > LISTED:
        counts = Counter(kan for _, kan in found)
        return f"{len(families)} tasks ({', '.join(f'{kan} on {count}' for kan, count in counts.most_common())})"
    return ", ".join(f"{label} ({', '.join(names)})" for label, names in families.items())


def _nothing(findings: Findings, comparisons: Sequence[Comparison], between: str, marked: str) -> str:
    """No difference was found; how large one could still be, at each place (or from place to place)."""
    bounds: dict[str, float] = {}
    labels = {place.key: place.label for place in findings.places}
    for one in comparisons:
        if not math.isnan(one.bound):
            bounds[labels[one.place]] = max(one.bound, bounds.get(labels[one.place], 0.0))
    if not bounds:
        largest = max(abs(one.difference) for one in comparisons)
        return f"No verdict {between}: they differ by up to {points(largest)}, and nothing here can test it{marked}."
    vague = [label for label, bound in bounds.items() if bound >= VAGUE]
    if len(vague) == len(bounds):
        return f"No verdict {between}: with so few seeds or rows, a difference of any size could be there{marked}."
    if vague:
        marked += f"; on {_few(vague)}, a difference of any size could be there"
    ordered = sorted(((label, bound) for label, bound in bounds.items() if bound < VAGUE), key=lambda item: item[1])
    if len(ordered) == 1:
        where = f" on {ordered[0][0]}" if vague else ""
        return f"No difference larger than {points(ordered[0][1])} was found {between}{where}{marked}."
    if len(ordered) <= LISTED:
        listed = ", ".join(f"{bound * 100:.1f} on {label}" for label, bound in ordered)
        listed = listed.replace(" on ", " points on ", 1)
    else:
        (least, low), (most, high) = ordered[0], ordered[-1]
        listed = f"{points(low)} on {least} to {high * 100:.1f} on {most}"
    return f"No difference was found {between}: none larger than {listed}{marked}."


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= LISTED else f"{len(labels)} others"


def _sentence(place: Place) -> str:
    """What was found at one place."""
    scores = sorted(place.chosen.items(), key=lambda item: -item[1].mean)
    best, line = scores[0]
    interval = "" if line.low is None else f", 95% interval over seeds {line.low:.3f} to {line.high:.3f}"
    parts = [f"{best} scores highest ({line.metric} {line.mean:.3f}{interval})."]
    parts += _against_majority(place)
    found = [one for one in place.comparisons if one.found]
    gains: dict[str, list[str]] = {}
    for one in sorted(found, key=lambda one: -abs(one.difference)):
        first = one.first if one.difference > 0 else one.second
        other, gap = _turned(one, first)
        gains.setdefault(first, []).append(f"{other} by {points(gap)}")
    parts += [f"{first} beats {', '.join(others)}." for first, others in gains.items()]
    rest = [one.bound for one in place.comparisons if not one.found and not math.isnan(one.bound)]
    if rest:
        which = "Between other pairs" if found else "Between families"
        parts.append(
            f"{which} no difference larger than {points(max(rest))} was found."
            if max(rest) < VAGUE
            else f"{which} a difference of any size could still be there: too few seeds or rows to tell."
        )
    only = sum(one.q_seeds < 0.05 and not one.found for one in place.comparisons)
    if only:
        parts.append(
            f"{only} more difference{'s' if only > 1 else ''} would come again with other seeds, but not surely with "
            "other rows."
        )
    return " ".join(parts)


def _against_majority(place: Place) -> list[str]:
    if place.majority is None:
        return []
    above = [name for name, line in place.chosen.items() if line.low is not None and line.low > place.majority]
    tested = [name for name, line in place.chosen.items() if line.low is not None]
    if not tested:
        return []
    if not above:
        return [f"No family's interval lies above always guessing the majority class ({place.majority:.3f})."]
    if len(above) < len(tested):
        missing = ", ".join(name for name in tested if name not in above)
        return [f"Not above the majority class ({place.majority:.3f}): {missing}."]
    return []


def _cannot(findings: Findings) -> list[str]:
    return [
        *_seeds(findings), *_rows(findings.places), *_small(findings.places), *_encoders(findings.places),
        *_unequal(findings), *_diverged(findings),
        *(["Heads of the protocol 'published' are optimistic: the rows that are reported chose their epochs."]
          if any(place.optimistic for place in findings.places) else []),
        *(ranking.sentence for ranking in findings.rankings.values() if not ranking.enough),
    ]  # fmt: skip


def _seeds(findings: Findings) -> list[str]:
    counts = sorted({line.n for place in findings.places for line in place.chosen.values()})
    said = []
    if counts[0] == 1:
        said.append(
            "One seed" + ("" if counts == [1] else " of some families") + " says nothing about other seeds: no "
            "interval and no test over replicates there. Sweep with --seeds 0:10."
        )
    few = [n for n in counts if 1 < n < FEW_SEEDS]
    if few:
        said.append(f"Only {few[0]} seeds: intervals are wide, and small differences stay hidden.")
    if len(findings.families) == 1:
        said.append("One family has nothing to be compared with. Add others with --head.")
    return said


def _rows(places: Sequence[Place]) -> list[str]:
    missing = [place.label for place in places if not place.summaries]
    if not missing:
        return []
    return [
        f"No labels for {', '.join(missing)}, in the results or in a cache (--cache): nothing is said there about new "
        "rows, so no difference counts as found."
    ]


def _small(places: Sequence[Place]) -> list[str]:
    """Splits on which no difference as large as those observed could have been seen."""
    said = []
    for place in places:
        hidden = [one for one in place.comparisons if not one.found and not math.isnan(one.visible)]
        if not hidden or any(abs(one.difference) >= one.visible for one in hidden):
            continue
        least, most = min(one.visible for one in hidden), max(one.visible for one in hidden)
        span = points(least) if f"{least:.3f}" == f"{most:.3f}" else f"{100 * least:.1f} to {points(most)}"
        said.append(
            f"{place.label} is too small to tell: with {place.rows:,} rows, a difference had to be at least {span}"
            f"{'' if least == most else ' (depending on the pair)'} to be seen (80% power, all comparisons together); "
            f"the largest that was left open is {points(max(abs(one.difference) for one in hidden))}."
        )
    return said


def _encoders(places: Sequence[Place]) -> list[str]:
    by_task: dict[str, set[str]] = {}
    for place in places:
        by_task.setdefault(place.task, set()).add(place.encoder)
    if len({frozenset(found) for found in by_task.values()}) < 2:
        return []
    listed = "; ".join(f"{task}: {', '.join(sorted(found))}" for task, found in by_task.items())
    return [
        f"Tasks have different encoders ({listed}): what differs between tasks may be the encoders'. Families are "
        "compared within a task and encoder only, and ranked for each encoder apart."
    ]


def _unequal(findings: Findings) -> list[str]:
    said = []
    tried: dict[str, set[int]] = {}
    for place in findings.places:
        for family in place.chosen:
            tried.setdefault(family, set()).add(sum(line.head == family for line in place.lines))
    most = {family: max(counts) for family, counts in tried.items()}
    if len(set(most.values())) > 1:
        listed = ", ".join(f"{family} {count}" for family, count in most.items())
        said.append(f"Unequal search: configurations tried for each family: {listed}. More trials find more.")
    hidden = {
        family: max(place.chosen[family].parameters for place in findings.places if family in place.chosen)
        for family in most if family != "linear"
    }  # fmt: skip
    if hidden and max(hidden.values()) > UNEQUAL * min(hidden.values()):
        small, large = min(hidden, key=hidden.get), max(hidden, key=hidden.get)
        said.append(
            f"Parameters are not matched: {large} has up to {hidden[large]:,}, {small} {hidden[small]:,}. "
            "Sweep with --match params to compare at equal size."
        )
    seeds = {line.seeds for place in findings.places for line in place.chosen.values() if line.n > 1}
    if len(seeds) > 1:
        said.append("Families do not all have the same seeds; only shared ones are paired.")
    return said


def _diverged(findings: Findings) -> list[str]:
    lost = {}
    for line in {id(line.config): line for line in findings.lines}.values():
        if line.diverged:
            lost[line.head] = lost.get(line.head, 0) + line.diverged
    if not lost:
        return []
    listed = ", ".join(f"{count} of {family}" for family, count in lost.items())
    return [f"Diverged and left out of every mean: {listed}. A family that diverges looks better than it is."]
