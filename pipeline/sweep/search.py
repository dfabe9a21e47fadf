"""Searches: the same number of configurations and the same epochs for every family, chosen on selection rows alone."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnmatchedError
from pipeline.hashing import hash_json
from pipeline.heads.config import HeadConfig
from pipeline.heads.families import FAMILIES
from pipeline.heads.match import Match
from pipeline.heads.resolve import resolve
from pipeline.models.caches import CacheRef, find_cache
from pipeline.progress import say
from pipeline.sweep.plan import PlannedHead, planned, shapes
from pipeline.sweep.ranges import Range
from pipeline.sweep.results import Results
from pipeline.sweep.spec import TRIALS, Product

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy

__all__ = ["Study", "studies"]

#: Halving: a third of the configurations goes on to three times the epochs.
FACTOR = 3
#: TPE: configurations that are tried side by side before it looks at their scores.
AT_ONCE = 5
#: Options that count for every family.
ALWAYS = ("batch_size", "scale", "lr", "weight_decay", "clip", "init")


@dataclass
class Trial:
    """One configuration (of seed 0) that a study tries, at one number of epochs.

    `score` is the mean over seeds of the main metric on the selection rows, `None` where a seed diverged or failed;
    `loss` and `epoch` of the chosen epochs break ties. `kept` says that it went on, or at the end that it is the best.
    """

    number: int
    rung: int
    shape: HeadConfig
    match: Match | None
    heads: tuple[PlannedHead, ...]
    score: float | None = None
    loss: float = math.inf
    epoch: float = math.inf
    kept: bool = False

    @property
    def rank(self) -> tuple[float, ...]:
        """Best first: higher score, then lower loss, then earlier epoch, then drawn earlier."""
        return (math.inf if self.score is None else -self.score, self.loss, self.epoch, self.number)


class Study:
    """The search of one family on one cache, feature and protocol.

    `random` trains all its draws at once; `tpe` a few at a time, each time with what it has learnt; `halving` trains
    its draws on few epochs, keeps the best third, and trains those from the start on three times as many, until one
    rung has all the epochs. Every rung's heads are whole heads with the epochs that their configuration says.
    """

    def __init__(self, ref: CacheRef, feature: str, product: Product, protocol: str, head: str) -> None:
        self.ref, self.feature, self.product, self.protocol, self.head = ref, feature, product, protocol, head
        self.asked = product.trials or TRIALS
        self.trials: list[Trial] = []
        self._drawn = 0
        self._seen: set[HeadConfig] = set()
        self._exhausted = False
        self._unmatched = 0
        self._open: list[Any] = []
        self._optuna = self._study()
        self.epochs = resolve(head, seed=0, features=feature, protocol=protocol, options=self._options({})).epochs

    @property
    def name(self) -> str:
        """What it searches, in a few words."""
        return f"{self.ref.task.name} {self.head}"

    def ask(self, store: Results) -> list[PlannedHead]:
        """The heads that are to be trained next, trained ones among them; none when the search is over."""
        self._score(store)
        if self.product.search == "halving":
            trials = self._next_rung()
        else:
            few = AT_ONCE if self.product.search == "tpe" else self.asked
            trials = self._draw(min(few, self.asked - self._drawn), 0, None)
        self.trials += trials
        return [head for trial in trials for head in trial.heads]

    def best(self) -> Trial | None:
        """The best trial with all the epochs, `None` where all diverged."""
        full = [trial for trial in self.trials if trial.shape.epochs == self.epochs and trial.score is not None]
        return min(full, key=lambda trial: trial.rank, default=None)

    def document(self) -> dict[str, Any]:
        """What was searched, what it cost and what it chose, as plain JSON.

        `epochs` counts those of all heads together: the budget, the same for every family of a product. `unmatched`
        counts draws that were drawn again because no width came near the budget of `--match`.
        """
        best = self.best()
        if best is not None:
            best.kept = True
        rungs: dict[int, list[Trial]] = {}
        for trial in self.trials:
            rungs.setdefault(trial.rung, []).append(trial)
        space = {name: str(has) if isinstance(has, Range) else list(has) for name, has in self._space().items()}
        what = {
            "task": self.ref.name,
            "encoder": self.ref.encoder,
            "features": self.feature,
            "protocol": self.protocol,
            "head": self.head,
            "search": self.product.search,
            "search_seed": self.product.search_seed,
            "requested": self.asked,
            "seeds": list(self.product.seeds),
            "space": space,
            "match": [self.product.match, self.product.budget, self.product.cost],
            "epochs_of_the_last": self.epochs,
        }
        return {"id": hash_json(what | {"fingerprint": self.ref.fingerprint})[:16], **what} | {
            "trials": len(rungs.get(0, [])),
            "unmatched": self._unmatched,
            "rungs": [{"epochs": trials[0].shape.epochs, "trials": len(trials)} for trials in rungs.values()],
            "epochs": sum(trial.shape.epochs * len(trial.heads) for trial in self.trials),
            "metric": self.ref.task.main_metric,
            "score": None if best is None else best.score,
            "best": None if best is None else _plain(best.shape),
            "heads": [] if best is None else [head.id for head in best.heads],
        }

    def trial_documents(self) -> list[dict[str, Any]]:
        """Every trial, for the results database."""
        return [
            {
                "number": trial.number, "rung": trial.rung, "epochs": trial.shape.epochs, "config": _plain(trial.shape),
                "score": trial.score, "kept": trial.kept, "heads": [head.id for head in trial.heads],
            }
            for trial in self.trials
        ]  # fmt: skip

    def _space(self) -> dict[str, tuple[Any, ...] | Range]:
        """The options with a choice that count for this family."""
        counts = (*ALWAYS, *FAMILIES[self.head].options)
        given = {name: has for name, has in self.product.options.items() if name in counts}
        return {name: has for name, has in given.items() if isinstance(has, Range) or len(has) > 1}

    def _study(self) -> "OptunaStudy":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = self.product.search_seed
        if self.product.search == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=2 * AT_ONCE)
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed)
        return optuna.create_study(direction="maximize", sampler=sampler)

    def _distributions(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, Any] = {}
        for name, has in self._space().items():
            if not isinstance(has, Range):
                found[name] = CategoricalDistribution(range(len(has)))  # places, since widths are lists themselves
            elif has.whole:
                found[name] = IntDistribution(int(has.low), int(has.high) - 1, log=has.log)
            else:
                found[name] = FloatDistribution(has.low, has.high, log=has.log)
        return found

    def _options(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a draw: what has one value in the product, and the values drawn."""
        options = {}
        for name, has in self.product.options.items():
            if name in chosen:
                options[name] = chosen[name] if isinstance(has, Range) else has[chosen[name]]
            elif not isinstance(has, Range):
                options[name] = has[0]
        return options

    def _shape(self, chosen: Mapping[str, Any]) -> tuple[Match | None, HeadConfig]:
        """The configuration of a draw, sized to the budget where there is one."""
        wanted = [(self.head, self.protocol, self._options(chosen))]
        ((shape, match),) = shapes(self.ref, self.feature, self.product, wanted)
        return match, shape

    def _draw(self, count: int, rung: int, epochs: int | None) -> list[Trial]:
        """Up to `count` new configurations that differ from all before; fewer where there are no more."""
        found: list[Trial] = []
        distributions, misses, unmatched = self._distributions(), 0, self._unmatched
        missed: UnmatchedError | None = None
        while len(found) < count and not self._exhausted:
            trial = self._optuna.ask(distributions)
            try:
                match, shape = self._shape(trial.params)
            except UnmatchedError as error:
                match, shape, missed = None, None, error
                self._unmatched += 1
            if shape is None or shape in self._seen:
                misses += 1
                # The same head twice would tell nothing new; a hundred times in a row, and there are no others.
                self._exhausted = misses >= 100 or not distributions
                self._optuna.tell(trial, state=_state("FAIL"))
                continue
            misses = 0
            self._seen.add(shape)
            shape = shape if epochs is None else replace(shape, epochs=epochs)
            found.append(self._trial(self._drawn + len(found), rung, shape, match))
            self._open.append((found[-1], trial))
        self._drawn += len(found)
        if missed is not None and not self._seen:
            raise missed
        if missed is not None:
            say(f"{self.name}: {self._unmatched - unmatched} draws left out: no width comes near the budget")
        if self._exhausted and self._drawn < self.asked:
            differ = f"{self._drawn} configuration{'s' * (self._drawn != 1)}"
            say(f"{self.name}: {self.asked} trials asked, but only {differ} found that differ; give lists or ranges")
            self._drawn = self.asked
        return found

    def _trial(self, number: int, rung: int, shape: HeadConfig, match: Match | None) -> Trial:
        heads = tuple(planned(self.ref, shape, seed, match) for seed in self.product.seeds)
        return Trial(number, rung, shape, match, heads)

    def _rungs(self) -> list[int]:
        """Epochs of every rung, the last one's all of them."""
        count = 1 + min(int(math.log(self.asked, FACTOR) + 1e-9), int(math.log(self.epochs, FACTOR) + 1e-9))
        return [max(1, round(self.epochs / FACTOR**left)) for left in reversed(range(count))]

    def _next_rung(self) -> list[Trial]:
        rungs = self._rungs()
        if not self.trials:
            return self._draw(self.asked, 0, rungs[0])
        last = self.trials[-1].rung
        if last + 1 == len(rungs):
            return []
        ranked = sorted((trial for trial in self.trials if trial.rung == last), key=lambda trial: trial.rank)
        kept = [trial for trial in ranked[: max(1, len(ranked) // FACTOR)] if trial.score is not None]
        for trial in kept:
            trial.kept = True
        return [
            self._trial(trial.number, last + 1, replace(trial.shape, epochs=rungs[last + 1]), trial.match)
            for trial in kept
        ]

    def _score(self, store: Results) -> None:
        """Read how the trials that were asked for have done, and tell the sampler."""
        waiting = [trial for trial in self.trials if trial.score is None]
        found = store.selected([head.id for trial in waiting for head in trial.heads]) if waiting else {}
        for trial in waiting:
            chosen = [found[head.id] for head in trial.heads if head.id in found]
            if len(chosen) == len(trial.heads):
                trial.score, trial.loss, trial.epoch = (sum(part) / len(chosen) for part in zip(*chosen, strict=True))
        for trial, own in self._open:
            self._optuna.tell(own, trial.score, None if trial.score is not None else _state("FAIL"))
        self._open = []


def studies(products: Iterable[Product], cache: Path) -> list[Study]:
    """A study for every cache, feature, protocol and family of the products. Raises `KanglueError`."""
    caches: dict[tuple[str, str | None], CacheRef] = {}
    found = []
    for product in products:
        for task in product.task:
            for encoder in product.encoder:
                if (task, encoder) not in caches:
                    caches[task, encoder] = find_cache(cache, task, encoder)
                ref = caches[task, encoder]
                found += [
                    Study(ref, ref.feature(feature), product, protocol, head)
                    for feature in product.features
                    for protocol in product.protocol
                    for head in product.head
                ]
    return found


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _plain(shape: HeadConfig) -> dict[str, Any]:
    return {name: value for name, value in shape.to_json().items() if name != "seed"}
