"""The results database: one SQLite file with every trained head, its metrics, curve and outputs.

Its tables (documented in docs/results.md) are meant to be read by other programs as well.
"""

import json
import math
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ResultsError, UnknownNameError
from pipeline.sweep.schema import LIST, TABLES, VERSION, digest, foreign_objects

__all__ = ["SELECTION", "TRAINING", "Results"]

#: Names of the selection rows and the training rows where metrics are stored by split.
SELECTION, TRAINING = "selection", "train"
#: Columns of `heads` that a document of a head has, and those that only the database keeps.
_COLUMNS = (
    "id", "task", "cache", "source", "encoder", "fingerprint", "pairs", "row_limit", "head", "main_metric", "features",
    "inputs", "protocol", "seed", "config", "trained", "status", "diverged_at", "epoch", "still_improving", "coverage",
    "parameters", "flops", "fit_seconds", "train_rows", "folds",
)  # fmt: skip
_KEPT = ("device", "versions", "sha256")
_JSON = ("config", "coverage", "versions")
#: Tables whose rows have a digest of their own, and the columns that it covers, in the order of the table.
_DIGESTED = {
    "caches": "fingerprint, class_names, attributes, plan",
    "labels": "fingerprint, split, rows, dtype, data",
    "baselines": "fingerprint, split, metric, majority",
    "outputs": "head_id, split, rows, classes, data",
}
#: Seconds that another process may hold the database; steps of SQLite's machine between two looks at the keyboard.
PATIENCE, _STEPS = 60.0, 100_000
#: Filters that are names people type, and are checked against what is stored.
_NAMES = ("task", "head", "encoder")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Results:
    """An open results database.

    Safe for several processes at once: every pack is one short transaction, and a head that another process has
    stored meanwhile is kept as it is.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        """Open `path`; with `create`, make the file if it does not exist. Raises `ResultsError`."""
        self.path = Path(path)
        #: Called with the record of every head that was stored, after its transaction.
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []
        if not create and not self.path.is_file():
            raise ResultsError(
                f"{self.path}: expected a results database, found nothing; run fit_heads.py sweep (or make heads) first"
            )
        if self.path.exists() and not self.path.is_file():
            raise ResultsError(f"{self.path}: expected a results database, found something else; name another")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=0.1, isolation_level=None)
        except (sqlite3.Error, OSError) as error:
            raise self._explained(error) from error
        try:
            # Python looks at the keyboard between two calls of this.
            self._connection.set_progress_handler(lambda: 0, _STEPS)
            for setting in ("foreign_keys = ON", "synchronous = FULL", "trusted_schema = OFF", "cell_size_check = ON"):
                self._run(f"PRAGMA {setting}")
            self._prepare(create)
        except BaseException:
            self._connection.close()
            raise

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """A statement, begun again for `PATIENCE` seconds while another process holds the database."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._connection.execute(statement, values)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement; whatever is wrong with the file becomes a `ResultsError`."""
        try:
            return self._execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> BaseException:
        """A fault of SQLite's in a line that says what to do."""
        words = str(error)
        if words == "interrupted":
            return KeyboardInterrupt()
        if "locked" in words:
            words = (
                f"expected the database free within {PATIENCE:.0f} s, found another process at work on it all that "
                "time; what was stored is safe: run the same command again when that process is done"
            )
        elif "full" in words:
            words = (
                "expected room on the disk, found it full; what was stored is safe: free some and run the same command "
                "again"
            )
        elif any(part in words for part in ("readonly", "unable to open", "Permission")):
            words = f"expected a results database that can be opened and written, found: {words}; name another"
        else:
            words = f"expected a results database, found: {words}; restore it, or name another"
        return ResultsError(f"{self.path}: {words} (`results`)")

    def _damaged(self, what: str) -> ResultsError:
        return ResultsError(
            f"{self.path}: expected {what} as stored, found other values (its digest differs): the file is damaged or "
            "was changed; restore it, or forget what is damaged (fit_heads.py verify names it)"
        )

    def _prepare(self, create: bool) -> None:
        version = self._run("PRAGMA user_version")[0][0]
        if version == 0 and create:
            with self._transaction():
                # Another process may have made the tables between the look and the lock.
                if not self._run("SELECT 1 FROM sqlite_master"):
                    for statement in filter(str.strip, TABLES.split(";")):
                        self._run(statement)
                    self._run(f"PRAGMA user_version = {VERSION}")
            version = self._run("PRAGMA user_version")[0][0]
        if version != VERSION:
            raise ResultsError(
                f"{self.path}: expected a results database of version {VERSION}, found {version}; "
                "name another file with `results`"
            )
        if foreign := foreign_objects(self._run(LIST)):
            raise ResultsError(
                f"{self.path}: expected the tables of a results database and no views or triggers, found others "
                f"({', '.join(foreign)[:200]}); restore it, or name another with `results`"
            )
        if create and (faults := self.faults()):
            raise ResultsError(
                f"{self.path}: expected a whole results database, found {faults[0]}"
                + (f" and {len(faults) - 1} faults more" if len(faults) > 1 else "")
                + "; restore it, forget what is damaged (fit_heads.py verify names it), or name another with `results`"
            )

    def faults(self) -> list[str]:
        """What is wrong with the file, in words: SQLite's own checks, and every digest."""
        found = [row[0] for row in self._run("PRAGMA integrity_check(20)") if row[0] != "ok"]
        found += [
            f"a row of {row[0]} that refers to no row of {row[2]}" for row in self._run("PRAGMA foreign_key_check")
        ]
        if found:
            return [" ".join(str(line).split()) for line in found]
        for name, row in self._rows().items():
            if row[0] != digest(*row[1:]):
                found.append(f"a damaged head {name}")
        for table, columns in _DIGESTED.items():
            for stored, *values in self._run(f"SELECT digest, {columns} FROM {table}"):
                if stored != digest(*values):
                    found.append(f"a damaged row of {table} ({', '.join(map(str, values[:2]))})")
        return found

    def _rows(self, ids: Collection[str] | None = None) -> dict[str, tuple[Any, ...]]:
        """Stored digest, columns, metrics and curve of heads, by id: what the digest is made of."""
        where, values = ("", ()) if ids is None else (" IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),))
        metrics: dict[str, list[Any]] = {}
        curves: dict[str, list[Any]] = {}
        chosen = f" WHERE head_id{where}" if where else ""
        for head, *values_of in self._run(
            f"SELECT head_id, split, metric, value FROM metrics{chosen} ORDER BY head_id, split, metric", values
        ):
            metrics.setdefault(head, []).append(tuple(values_of))
        for head, *values_of in self._run(
            "SELECT head_id, epoch, training_loss, selection_loss, selection_score FROM curves"
            f"{chosen} ORDER BY head_id, epoch",
            values,
        ):
            curves.setdefault(head, []).append(tuple(values_of))
        columns = ", ".join((*_COLUMNS, *_KEPT))
        chosen = f" WHERE id{where}" if where else ""
        return {
            row[1]: (*row, metrics.get(row[1], []), curves.get(row[1], []))
            for row in self._run(f"SELECT digest, {columns} FROM heads{chosen}", values)
        }

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._execute("BEGIN IMMEDIATE")
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def known(self, ids: Iterable[str] | None = None) -> dict[str, str]:
        """SHA-256 of each of these heads (of all heads for `None`) that is stored, by id."""
        stored = dict(self._run("SELECT id, sha256 FROM heads"))
        wanted = stored if ids is None else set(ids)
        return {name: sha256 for name, sha256 in stored.items() if name in wanted}

    def remove(self, ids: Iterable[str]) -> None:
        """Remove heads, all or none, with everything that belongs to them."""
        with self._transaction():
            self._connection.executemany("DELETE FROM heads WHERE id = ?", [(name,) for name in ids])

    def copy_from(self, other: Path, ids: Sequence[str], publish: Callable[[], None]) -> None:
        """Copy heads, the caches they were trained on and searches from another database, all or nothing.

        `publish` is called before they count as stored. What is here already stays as it is.
        """
        self._run("ATTACH DATABASE ? AS other", (str(other),))
        try:
            with self._transaction():
                self._run("CREATE TEMP TABLE chosen AS SELECT value AS id FROM json_each(?)", (json.dumps(list(ids)),))
                caches = "fingerprint IN (SELECT fingerprint FROM other.heads WHERE id IN (SELECT id FROM chosen))"
                for table in ("caches", "labels", "baselines"):
                    self._run(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table} WHERE {caches}")
                self._run("INSERT INTO main.heads SELECT * FROM other.heads WHERE id IN (SELECT id FROM chosen)")
                for table in ("metrics", "curves", "outputs"):
                    self._run(
                        f"INSERT INTO main.{table} SELECT * FROM other.{table} WHERE head_id IN (SELECT id FROM chosen)"
                    )
                self._run(
                    "INSERT OR IGNORE INTO main.searches SELECT * FROM other.searches "
                    "WHERE fingerprint IN (SELECT fingerprint FROM main.caches)"
                )
                self._run(
                    "INSERT OR IGNORE INTO main.trials SELECT * FROM other.trials "
                    "WHERE search_id IN (SELECT id FROM main.searches)"
                )
                self._run("DROP TABLE chosen")
                publish()
        finally:
            self._run("DETACH DATABASE other")

    def add(
        self,
        records: Iterable[Mapping[str, Any]],
        *,
        publish: Callable[[Sequence[str]], None] = lambda _: None,
        replace: Collection[str] = (),
    ) -> None:
        """Store heads, all or none; their cache must be stored already (`add_cache`).

        `publish` is called with the ids that are new before they count as stored, to put their files in place. A head
        that is stored already is kept, unless `replace` names it.

        A record has the columns of `heads` (with `config`, `coverage` and `versions` as JSON values), and `metrics` by
        split (`SELECTION` and `TRAINING` among them), `curve` (rows of training loss, selection loss and selection
        score) and `outputs` by split [rows, classes].
        """
        columns = (*_COLUMNS, *_KEPT)
        # Not OR IGNORE, which would drop a head that breaks another constraint without a word.
        insert = (
            f"INSERT INTO heads ({', '.join(columns)}, digest) VALUES ({', '.join('?' * len(columns))}, '') "
            "ON CONFLICT (id) DO NOTHING"
        )
        stored: list[Mapping[str, Any]] = []
        with self._transaction(), closing(self._connection.cursor()) as cursor:
            for record in records:
                if record["id"] in replace:
                    cursor.execute("DELETE FROM heads WHERE id = ?", (record["id"],))
                cursor.execute(insert, [_encoded(name, record[name]) for name in columns])
                if not cursor.rowcount:
                    continue
                stored.append(record)
                head = record["id"]
                cursor.executemany(
                    "INSERT INTO metrics VALUES (?, ?, ?, ?)",
                    [(head, split, m, v) for split, scores in record["metrics"].items() for m, v in scores.items()],
                )
                cursor.executemany(
                    "INSERT INTO curves VALUES (?, ?, ?, ?, ?)",
                    [(head, epoch, *map(_finite, row)) for epoch, row in enumerate(record["curve"], 1)],
                )
                cursor.executemany(
                    "INSERT INTO outputs VALUES (?, ?, ?, ?, ?, ?)",
                    [_with_digest(head, split, *v.shape, v.astype("<f4").tobytes()) for split, v in
                     record["outputs"].items()],
                )  # fmt: skip
            rows = self._rows([record["id"] for record in stored])
            cursor.executemany(
                "UPDATE heads SET digest = ? WHERE id = ?", [(digest(*row[1:]), head) for head, row in rows.items()]
            )
            publish([record["id"] for record in stored])
        for record in stored:
            for listener in self.listeners:
                listener(record)

    def add_cache(
        self,
        attributes: Mapping[str, Any],
        labels: Mapping[str, np.ndarray] | None = None,
        majority: Mapping[str, Mapping[str, float | None]] | None = None,
        plan: str | None = None,
    ) -> None:
        """Store a cache's attributes, its reported splits' labels and the scores of the majority class, by split.

        Labels [rows] are class numbers or values, in the order of the heads' outputs; the majority class is the
        training split's largest (`None` where a metric of it means nothing). `plan` names what its sweep was planned
        for, the same for every cache of that sweep. A cache that is stored already is kept, with its plan.
        """
        key = attributes["fingerprint"]
        with self._transaction(), closing(self._connection.cursor()) as cursor:
            names = None if attributes["labels"] is None else json.dumps(list(attributes["labels"]))
            cursor.execute(
                "INSERT INTO caches VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                _with_digest(key, names, json.dumps(dict(attributes)), plan),
            )
            cursor.executemany(
                "INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [_with_digest(key, split, len(v), *_little_endian(v)) for split, v in (labels or {}).items()],
            )
            cursor.executemany(
                "INSERT INTO baselines VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    _with_digest(key, split, m, v)
                    for split, scores in (majority or {}).items()
                    for m, v in scores.items()
                ],
            )

    def plans(self) -> dict[str, str | None]:
        """Of each cache by fingerprint, which of its sweep's caches were planned together: they share a plan."""
        return {key: plan for key, _, _, plan in self._checked("caches")}

    def caches(self) -> dict[str, dict[str, Any]]:
        """Attributes of the caches that heads were trained on, by fingerprint."""
        return {key: json.loads(text) for key, _, text, _ in self._checked("caches")}

    def class_names(self) -> dict[str, tuple[str, ...] | None]:
        """Class names of each cache's task by fingerprint, `None` for regression."""
        return {key: names and tuple(json.loads(names)) for key, names, *_ in self._checked("caches")}

    def labels(self, fingerprint: str, split: str) -> np.ndarray | None:
        """A reported split's labels [rows], class numbers or values; `None` if they are not stored."""
        rows = self._checked("labels", "WHERE fingerprint = ? AND split = ?", (fingerprint, split))
        return np.frombuffer(rows[0][4], rows[0][3]) if rows else None

    def reported_rows(self) -> dict[tuple[str, str], int]:
        """Rows of the reported splits by (fingerprint, split)."""
        return {(key, split): rows for key, split, rows in self._run("SELECT fingerprint, split, rows FROM labels")}

    def baselines(self) -> dict[tuple[str, str], dict[str, float | None]]:
        """Metrics of the majority class by (fingerprint, split)."""
        scores: dict[tuple[str, str], dict[str, float | None]] = {}
        for key, split, metric, value in self._checked("baselines"):
            scores.setdefault((key, split), {})[metric] = value
        return scores

    def heads(self, where: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Heads as documents (contract of `fit_heads.py run --json`), sorted by task, encoder, features and family.

        `where` maps columns of `heads` to one value or a collection of allowed values; a `task` is also matched by the
        name of its cache (`mrpc.siamese`). Raises `UnknownNameError` for a task, family or encoder that no head has.
        """
        clauses, values = [], []
        for column, allowed in (where or {}).items():
            allowed = [allowed] if isinstance(allowed, str | int) else list(allowed)
            columns = ("task", "cache") if column == "task" else (column,)
            if column in _NAMES:
                self._check_names(column, columns, allowed)
            # One parameter however many values: SQLite limits how many a statement may have.
            clauses.append(f"({' OR '.join(f'{c} IN (SELECT value FROM json_each(?))' for c in columns)})")
            values += [json.dumps(allowed)] * len(columns)
        condition = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        rows = self._run(
            f"SELECT {', '.join(_COLUMNS)} FROM heads {condition} "
            "ORDER BY task, encoder, cache, features, protocol, head, config, seed",
            values,
        )
        stored = self._rows([row[0] for row in rows] if where else None)
        documents = []
        for row in rows:
            if stored[row[0]][0] != digest(*stored[row[0]][1:]):
                raise self._damaged(f"head {row[0]}")
            document = dict(zip(_COLUMNS, row, strict=True))
            document["config"] = json.loads(document["config"])
            document["coverage"] = json.loads(document["coverage"] or "null")
            scores: dict[str, dict[str, float]] = {}
            for split, metric, value in stored[document["id"]][-2]:
                scores.setdefault(split, {})[metric] = value
            document |= {"selection": scores.pop(SELECTION, {}), "training": scores.pop(TRAINING, {})}
            documents.append(document | {"metrics": scores})
        return documents

    def _check_names(self, kind: str, columns: Sequence[str], names: Sequence[Any]) -> None:
        stored = {name for column in columns for (name,) in self._run(f"SELECT DISTINCT {column} FROM heads")}
        for name in names:
            if stored and name not in stored:
                raise UnknownNameError(f"{kind} of {self.path}", name, sorted(stored))

    def selected(self, ids: Sequence[str]) -> dict[str, tuple[float, float, int]]:
        """Main metric and loss on the selection rows at the chosen epoch, and that epoch, of heads that trained."""
        rows = self._run(
            "SELECT id, selection_score, selection_loss, heads.epoch FROM heads "
            "JOIN curves ON curves.head_id = heads.id AND curves.epoch = heads.epoch "
            "WHERE status = 'trained' AND id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        return {head: scores for head, *scores in rows if None not in scores}

    def curves(self, ids: Sequence[str]) -> dict[str, list[tuple[float | None, ...]]]:
        """Training loss, selection loss and selection score after each epoch, by head."""
        curves: dict[str, list[tuple[float | None, ...]]] = {}
        for head, *numbers in self._run(
            "SELECT head_id, training_loss, selection_loss, selection_score FROM curves "
            "WHERE head_id IN (SELECT value FROM json_each(?)) ORDER BY head_id, epoch",
            (json.dumps(list(ids)),),
        ):
            curves.setdefault(head, []).append(tuple(numbers))
        return curves

    def runs(self, fingerprints: Iterable[str]) -> list[dict[str, Any]]:
        """What trained the heads of these caches: device, versions, number of heads, seconds, first and last date."""
        names = ("device", "versions", "heads", "seconds", "first", "last")
        rows = self._run(
            "SELECT device, versions, count(*), sum(fit_seconds), min(created), max(created) FROM heads "
            "WHERE fingerprint IN (SELECT value FROM json_each(?)) GROUP BY device, versions ORDER BY min(created)",
            (json.dumps(sorted(fingerprints)),),
        )
        return [dict(zip(names, row, strict=True)) | {"versions": json.loads(row[1])} for row in rows]

    def add_search(self, fingerprint: str, search: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> None:
        """Store a search (`pipeline.sweep.search.Study.document`) with its trials, replacing one of the same id."""
        columns = ("id", "task", "encoder", "features", "protocol", "head", "search", "requested", "trials", "epochs",
                   "metric", "score")  # fmt: skip
        names = ("fingerprint", *columns, "best", "document")
        values = [fingerprint, *(search[name] for name in columns), json.dumps(search["best"]), json.dumps(search)]
        rows = [
            (search["id"], trial["number"], trial["rung"], trial["epochs"], json.dumps(trial["config"]), trial["score"],
             int(trial["kept"]), json.dumps(trial["heads"]))
            for trial in trials
        ]  # fmt: skip
        with self._transaction():
            self._connection.execute("DELETE FROM searches WHERE id = ?", (search["id"],))
            marks = ", ".join("?" * len(names))
            self._connection.execute(f"INSERT INTO searches ({', '.join(names)}) VALUES ({marks})", values)
            self._connection.executemany("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _checked(self, table: str, where: str = "", values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a table, as `_DIGESTED` names its columns, each compared with its digest."""
        rows = self._run(f"SELECT digest, {_DIGESTED[table]} FROM {table} {where}", values)
        for stored, *row in rows:
            if stored != digest(*row):
                raise self._damaged(f"a row of {table} ({', '.join(map(str, row[:2]))})")
        return [tuple(row) for _, *row in rows]

    def outputs(self, head: str, split: str) -> np.ndarray:
        """A head's outputs [rows, classes], float32, on a reported split."""
        rows = self._checked("outputs", "WHERE head_id = ? AND split = ?", (head, split))
        if not rows:
            raise ResultsError(f"{self.path}: expected outputs of head {head} on {split!r}, found none")
        return np.frombuffer(rows[0][4], "<f4").reshape(rows[0][2:4])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _with_digest(*values: Any) -> tuple[Any, ...]:
    return (*values, digest(*values))


def _encoded(name: str, value: Any) -> Any:
    return json.dumps(value) if name in _JSON and value is not None else value


def _little_endian(values: np.ndarray) -> tuple[str, bytes]:
    """Name of the type (`<i8`, `<f4`) and bytes of an array."""
    values = values.astype(values.dtype.newbyteorder("<"))
    return values.dtype.str, values.tobytes()
