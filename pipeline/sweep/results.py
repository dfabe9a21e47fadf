"""The results database: one SQLite file with every trained head, its metrics, curve and outputs.

Its tables (documented in docs/results.md) are meant to be read by other programs as well.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ResultsError, UnknownNameError
from pipeline.sweep.schema import TABLES, VERSION

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
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._prepare(create)
        except (sqlite3.DatabaseError, OSError) as error:
            raise ResultsError(
                f"{self.path}: expected a results database ({error}); name another with --results"
            ) from error

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement; a damaged file becomes a `ResultsError`."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ResultsError:
        return ResultsError(
            f"{self.path}: expected a whole results database, found {error}; restore it, or name another with --results"
        )

    def _prepare(self, create: bool) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and create:
            with self._transaction():
                # Another process may have made the tables between the look and the lock.
                if not self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    for statement in filter(str.strip, TABLES.split(";")):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version = {VERSION}")
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise ResultsError(
                f"{self.path}: expected a results database of version {VERSION}, found {version}; "
                "name another file with --results"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def known(self, ids: Iterable[str]) -> dict[str, str]:
        """SHA-256 of each of these heads that is stored, by id."""
        wanted = set(ids)
        return {name: sha256 for name, sha256 in self._run("SELECT id, sha256 FROM heads") if name in wanted}

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
            f"INSERT INTO heads ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
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
                    "INSERT INTO outputs VALUES (?, ?, ?, ?, ?)",
                    [(head, split, *v.shape, v.astype("<f4").tobytes()) for split, v in record["outputs"].items()],
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
    ) -> None:
        """Store a cache's attributes, its reported splits' labels and the scores of the majority class, by split.

        Labels [rows] are class numbers or values, in the order of the heads' outputs; the majority class is the
        training split's largest (`None` where a metric of it means nothing). A cache that is stored already is kept.
        """
        key = attributes["fingerprint"]
        with self._transaction(), closing(self._connection.cursor()) as cursor:
            names = None if attributes["labels"] is None else json.dumps(list(attributes["labels"]))
            cursor.execute(
                "INSERT INTO caches VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (key, names, json.dumps(dict(attributes)))
            )
            cursor.executemany(
                "INSERT INTO labels VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(key, split, len(v), *_little_endian(v)) for split, v in (labels or {}).items()],
            )
            cursor.executemany(
                "INSERT INTO baselines VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(key, split, m, v) for split, scores in (majority or {}).items() for m, v in scores.items()],
            )

    def caches(self) -> dict[str, dict[str, Any]]:
        """Attributes of the caches that heads were trained on, by fingerprint."""
        return {key: json.loads(text) for key, text in self._run("SELECT fingerprint, attributes FROM caches")}

    def class_names(self) -> dict[str, tuple[str, ...] | None]:
        """Class names of each cache's task by fingerprint, `None` for regression."""
        rows = self._run("SELECT fingerprint, class_names FROM caches")
        return {key: None if names is None else tuple(json.loads(names)) for key, names in rows}

    def labels(self, fingerprint: str, split: str) -> np.ndarray | None:
        """A reported split's labels [rows], class numbers or values; `None` if they are not stored."""
        rows = self._run("SELECT dtype, data FROM labels WHERE fingerprint = ? AND split = ?", (fingerprint, split))
        return np.frombuffer(rows[0][1], rows[0][0]) if rows else None

    def reported_rows(self) -> dict[tuple[str, str], int]:
        """Rows of the reported splits by (fingerprint, split)."""
        return {(key, split): rows for key, split, rows in self._run("SELECT fingerprint, split, rows FROM labels")}

    def baselines(self) -> dict[tuple[str, str], dict[str, float | None]]:
        """Metrics of the majority class by (fingerprint, split)."""
        scores: dict[tuple[str, str], dict[str, float | None]] = {}
        for key, split, metric, value in self._run("SELECT fingerprint, split, metric, majority FROM baselines"):
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
        metrics: dict[str, dict[str, dict[str, float]]] = {}
        for head, split, metric, value in self._run("SELECT * FROM metrics"):
            metrics.setdefault(head, {}).setdefault(split, {})[metric] = value
        documents = []
        for row in rows:
            document = dict(zip(_COLUMNS, row, strict=True))
            document["config"] = json.loads(document["config"])
            document["coverage"] = json.loads(document["coverage"] or "null")
            scores = metrics.get(document["id"], {})
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

    def outputs(self, head: str, split: str) -> np.ndarray:
        """A head's outputs [rows, classes], float32, on a reported split."""
        rows = self._run("SELECT rows, classes, data FROM outputs WHERE head_id = ? AND split = ?", (head, split))
        if not rows:
            raise ResultsError(f"{self.path}: expected outputs of head {head} on {split!r}, found none")
        return np.frombuffer(rows[0][2], "<f4").reshape(rows[0][:2])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _encoded(name: str, value: Any) -> Any:
    return json.dumps(value) if name in _JSON and value is not None else value


def _little_endian(values: np.ndarray) -> tuple[str, bytes]:
    """Name of the type (`<i8`, `<f4`) and bytes of an array."""
    values = values.astype(values.dtype.newbyteorder("<"))
    return values.dtype.str, values.tobytes()
