"""The tables of a results database, in SQL; docs/results.md documents them.

SQLite notices damage to its own structure, not a flipped bit in a number: every row that is shown or trained on has a
`digest`, SHA-256 of what was stored.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any

__all__ = ["LIST", "TABLES", "VERSION", "digest", "foreign_objects"]

#: Version of the tables, in SQLite's `user_version`.
VERSION = 1
#: Statement that lists what a database is made of.
LIST = "SELECT type, name, coalesce(sql, '') FROM sqlite_master"

TABLES = """
CREATE TABLE caches (
    fingerprint TEXT PRIMARY KEY, class_names TEXT, attributes TEXT NOT NULL, plan TEXT, digest TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE labels (
    fingerprint TEXT NOT NULL REFERENCES caches (fingerprint), split TEXT NOT NULL, rows INTEGER NOT NULL,
    dtype TEXT NOT NULL, data BLOB NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (fingerprint, split)
);
CREATE TABLE baselines (
    fingerprint TEXT NOT NULL REFERENCES caches (fingerprint), split TEXT NOT NULL, metric TEXT NOT NULL,
    majority REAL, digest TEXT NOT NULL, PRIMARY KEY (fingerprint, split, metric)
) WITHOUT ROWID;
CREATE TABLE heads (
    id TEXT PRIMARY KEY, fingerprint TEXT NOT NULL REFERENCES caches (fingerprint), cache TEXT NOT NULL,
    task TEXT NOT NULL, source TEXT NOT NULL, encoder TEXT NOT NULL, pairs TEXT NOT NULL, row_limit INTEGER,
    features TEXT NOT NULL, inputs INTEGER NOT NULL, train_rows INTEGER NOT NULL, folds INTEGER NOT NULL,
    head TEXT NOT NULL, protocol TEXT NOT NULL, seed INTEGER NOT NULL, config TEXT NOT NULL,
    trained TEXT NOT NULL CHECK (trained IN ('head', 'encoder+head')),
    status TEXT NOT NULL CHECK (status IN ('trained', 'diverged')), diverged_at INTEGER,
    main_metric TEXT NOT NULL, epoch INTEGER NOT NULL, still_improving INTEGER CHECK (still_improving IN (0, 1)),
    coverage TEXT, parameters INTEGER NOT NULL, flops INTEGER NOT NULL, fit_seconds REAL NOT NULL,
    device TEXT NOT NULL, versions TEXT NOT NULL, sha256 TEXT NOT NULL,
    digest TEXT NOT NULL, created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) WITHOUT ROWID;
CREATE INDEX heads_by_task ON heads (task, encoder, head);
CREATE TABLE metrics (
    head_id TEXT NOT NULL REFERENCES heads (id) ON DELETE CASCADE, split TEXT NOT NULL, metric TEXT NOT NULL,
    value REAL NOT NULL, PRIMARY KEY (head_id, split, metric)
) WITHOUT ROWID;
CREATE TABLE curves (
    head_id TEXT NOT NULL REFERENCES heads (id) ON DELETE CASCADE, epoch INTEGER NOT NULL, training_loss REAL,
    selection_loss REAL, selection_score REAL, PRIMARY KEY (head_id, epoch)
) WITHOUT ROWID;
CREATE TABLE outputs (
    head_id TEXT NOT NULL REFERENCES heads (id) ON DELETE CASCADE, split TEXT NOT NULL, rows INTEGER NOT NULL,
    classes INTEGER NOT NULL, data BLOB NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (head_id, split)
);
CREATE TABLE searches (
    id TEXT PRIMARY KEY, fingerprint TEXT NOT NULL REFERENCES caches (fingerprint), task TEXT NOT NULL,
    encoder TEXT NOT NULL, features TEXT NOT NULL, protocol TEXT NOT NULL, head TEXT NOT NULL, search TEXT NOT NULL,
    requested INTEGER NOT NULL, trials INTEGER NOT NULL, epochs INTEGER NOT NULL, metric TEXT NOT NULL, score REAL,
    best TEXT, document TEXT NOT NULL, created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) WITHOUT ROWID;
CREATE TABLE trials (
    search_id TEXT NOT NULL REFERENCES searches (id) ON DELETE CASCADE, number INTEGER NOT NULL, rung INTEGER NOT NULL,
    epochs INTEGER NOT NULL, config TEXT NOT NULL, score REAL, kept INTEGER NOT NULL, heads TEXT NOT NULL,
    PRIMARY KEY (search_id, number, rung)
) WITHOUT ROWID;
"""


def digest(*values: Any) -> str:
    """SHA-256 of values as SQLite gives them back."""
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _objects() -> frozenset[tuple[str, str, str]]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES)
    rows = connection.execute(LIST).fetchall()
    connection.close()
    return frozenset(rows)


def foreign_objects(found: Sequence[tuple[str, str, str]]) -> list[str]:
    """What `LIST` finds in a database that is not as `TABLES` makes it: tables that lack or differ, views, triggers."""
    found = [(str(kind), str(name), str(sql)) for kind, name, sql in found]
    extra = {f"{kind} {name}" for kind, name, _ in found if kind in ("view", "trigger")}
    return sorted(extra | {f"{kind} {name}" for kind, name, _ in _objects() - set(found)})
