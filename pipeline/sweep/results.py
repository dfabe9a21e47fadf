"""The results database: one SQLite file that holds every trained head, its metrics, curve and outputs.

Its tables (documented in docs/results.md) are meant to be read by other programs as well.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ResultsError
from pipeline.sweep.schema import LATER, TABLES

__all__ = ["SELECTION", "Results"]

#: Version of the tables below, in SQLite's `user_version`.
VERSION = 1
#: The name under which metrics on the selection rows stand beside those on splits.
SELECTION = "selection"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Results:
    """An open results database.

    Safe for several processes at once: every pack is one short transaction, and a head that another process has
    stored meanwhile is kept as it is.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        """Open `path`; with `create`, make it where it is not there. Raises `ResultsError`."""
        self.path = Path(path)
        #: Told of the record of every head that was stored, after its transaction.
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
        if create:
            for statement in LATER:
                self._connection.execute(statement)

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

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that are stored."""
        present = {row[0] for row in self._run("SELECT id FROM heads")}
        return present & set(ids)

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Store heads, all or none.

        A record has the columns of `heads` (with `config` and `versions` as dictionaries), and `metrics` by split,
        `curve` (rows of epoch losses and score) and `outputs` by split [rows, classes].
        """
        columns = (
            "id", "task", "source", "encoder", "fingerprint", "head", "main_metric", "features", "protocol", "seed",
            "config", "status", "diverged_at", "epoch", "parameters", "flops", "fit_seconds", "n_train", "device",
            "versions",
        )  # fmt: skip
        places = ", ".join("?" * len(columns))
        stored: list[Mapping[str, Any]] = []
        with self._transaction(), closing(self._connection.cursor()) as cursor:
            for record in records:
                values = [
                    json.dumps(record[name]) if name in ("config", "versions") else record[name] for name in columns
                ]
                # Not OR IGNORE, which would drop a head that breaks another constraint without a word.
                insert = f"INSERT INTO heads ({', '.join(columns)}) VALUES ({places}) ON CONFLICT (id) DO NOTHING"
                cursor.execute(insert, values)
                if not cursor.rowcount:
                    continue
                if self.listeners:
                    stored.append(record)
                head = record["id"]
                cursor.executemany(
                    "INSERT INTO metrics VALUES (?, ?, ?, ?)",
                    [(head, s, m, v) for s, found in record["metrics"].items() for m, v in found.items()],
                )
                cursor.executemany(
                    "INSERT INTO curves VALUES (?, ?, ?, ?, ?)",
                    [(head, epoch, *map(_plain, row)) for epoch, row in enumerate(record["curve"], 1)],
                )
                cursor.executemany(
                    "INSERT INTO outputs VALUES (?, ?, ?, ?, ?)",
                    [(head, s, *v.shape, v.astype("<f4").tobytes()) for s, v in record["outputs"].items()],
                )
        for record in stored:
            for listener in self.listeners:
                listener(record)

    def add_baselines(self, fingerprint: str, split: str, rows: int, majority: Mapping[str, float | None]) -> None:
        """Store what the majority class of the training split scores on a split (`None` where that means nothing)."""
        with self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO baselines VALUES (?, ?, ?, ?, ?)",
                [(fingerprint, split, rows, metric, value) for metric, value in majority.items()],
            )

    def add_labels(self, fingerprint: str, split: str, labels: np.ndarray) -> None:
        """Store a reported split's labels [rows] (class numbers or values), in the order of the heads' outputs."""
        with self._transaction():
            values = (fingerprint, split, len(labels), labels.astype("<f4").tobytes())
            self._connection.execute("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)", values)

    def labels(self, fingerprint: str, split: str) -> np.ndarray | None:
        """A reported split's labels [rows], float32; `None` where the file does not hold them."""
        if not self._run("SELECT 1 FROM sqlite_master WHERE name = 'labels'"):
            return None
        rows = self._run("SELECT float32 FROM labels WHERE fingerprint = ? AND split = ?", (fingerprint, split))
        return np.frombuffer(rows[0][0], "<f4") if rows else None

    def baselines(self) -> dict[tuple[str, str], dict[str, float | None]]:
        """Metrics of the majority class by (fingerprint, split)."""
        found: dict[tuple[str, str], dict[str, float | None]] = {}
        for fingerprint, split, metric, value in self._run(
            "SELECT fingerprint, split, metric, majority FROM baselines"
        ):
            found.setdefault((fingerprint, split), {})[metric] = value
        return found

    def reported_rows(self) -> dict[tuple[str, str], int]:
        """Rows of the reported splits by (fingerprint, split)."""
        return {(key, split): rows for key, split, rows in self._run("SELECT fingerprint, split, rows FROM baselines")}

    def heads(self, where: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Heads as documents (contract of `fit_heads.py run --json`), oldest task names first.

        `where` maps columns of `heads` to one value or a collection of allowed values.
        """
        clauses, values = [], []
        for column, allowed in (where or {}).items():
            # One parameter however many there are: SQLite limits how many a statement may have.
            allowed = [allowed] if isinstance(allowed, str | int) else list(allowed)
            clauses.append(f"{column} IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(allowed))
        condition = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        names = (
            "id", "task", "source", "encoder", "fingerprint", "head", "main_metric", "features", "protocol", "seed",
            "config", "status", "diverged_at", "epoch", "parameters", "flops", "fit_seconds", "n_train",
        )  # fmt: skip
        rows = self._run(
            f"SELECT {', '.join(names)} FROM heads {condition} "
            "ORDER BY task, encoder, features, protocol, head, config, seed",
            values,
        )
        metrics: dict[str, dict[str, dict[str, float]]] = {}
        for head, split, metric, value in self._run("SELECT * FROM metrics"):
            metrics.setdefault(head, {}).setdefault(split, {})[metric] = value
        documents = []
        for row in rows:
            document = dict(zip(names, row, strict=True))
            document["config"] = json.loads(document["config"])
            found = dict(metrics.get(document["id"], {}))
            document["selection"] = found.pop(SELECTION, {})
            document["metrics"] = found
            documents.append(document)
        return documents

    def selected(self, ids: Sequence[str]) -> dict[str, tuple[float, float, int]]:
        """Main metric and loss on the selection rows at the chosen epoch, and that epoch, of heads that trained."""
        rows = self._run(
            "SELECT id, selection_score, selection_loss, heads.epoch FROM heads "
            "JOIN curves ON curves.head_id = heads.id AND curves.epoch = heads.epoch "
            "WHERE status = 'trained' AND id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        return {head: rest for head, *rest in rows if None not in rest}

    def add_search(self, fingerprint: str, search: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> None:
        """Store a search (`pipeline.sweep.search.Study.document`) with its trials, over an earlier one of its id."""
        columns = ("id", "task", "encoder", "features", "protocol", "head", "search", "asked", "trials", "epochs")
        names = ("fingerprint", *columns, "metric", "score", "best", "document")
        values = [fingerprint, *(search[name] for name in (*columns, "metric", "score"))]
        values += [json.dumps(search["best"]), json.dumps(search)]
        rows = [
            (search["id"], one["number"], one["rung"], one["epochs"], json.dumps(one["config"]), one["score"],
             int(one["kept"]), json.dumps(one["heads"]))
            for one in trials
        ]  # fmt: skip
        with self._transaction():
            self._connection.execute("DELETE FROM searches WHERE id = ?", (search["id"],))
            places = ", ".join("?" * len(names))
            self._connection.execute(f"INSERT INTO searches ({', '.join(names)}) VALUES ({places})", values)
            self._connection.executemany("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def classes(self) -> dict[str, int]:
        """Outputs of the heads of each cache, by its fingerprint; caches whose heads all diverged are not there."""
        return dict(
            self._run("SELECT DISTINCT fingerprint, classes FROM heads JOIN outputs ON outputs.head_id = heads.id")
        )

    def outputs(self, head: str, split: str) -> np.ndarray:
        """A head's outputs [rows, classes], float32, on a reported split."""
        rows = self._run("SELECT rows, classes, float32 FROM outputs WHERE head_id = ? AND split = ?", (head, split))
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
