"""The results database's tables, in SQL; docs/results.md says what they hold."""

__all__ = ["LATER", "TABLES"]

TABLES = """
CREATE TABLE heads (
    id TEXT PRIMARY KEY, task TEXT NOT NULL, source TEXT NOT NULL, encoder TEXT NOT NULL, fingerprint TEXT NOT NULL,
    head TEXT NOT NULL, main_metric TEXT NOT NULL,
    features TEXT NOT NULL, protocol TEXT NOT NULL, seed INTEGER NOT NULL, config TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('trained', 'diverged')), diverged_at INTEGER, epoch INTEGER NOT NULL,
    parameters INTEGER NOT NULL, flops INTEGER NOT NULL, fit_seconds REAL NOT NULL, n_train INTEGER NOT NULL,
    device TEXT NOT NULL, versions TEXT NOT NULL, created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) WITHOUT ROWID;
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
    classes INTEGER NOT NULL, float32 BLOB NOT NULL, PRIMARY KEY (head_id, split)
);
CREATE TABLE baselines (
    fingerprint TEXT NOT NULL, split TEXT NOT NULL, rows INTEGER NOT NULL, metric TEXT NOT NULL, majority REAL,
    PRIMARY KEY (fingerprint, split, metric)
) WITHOUT ROWID;
CREATE INDEX heads_by_task ON heads (task, encoder, head);
"""
#: Added later, and to a file that lacks them whenever heads are stored; whoever reads does without them.
LATER = (
    """CREATE TABLE IF NOT EXISTS labels (
    fingerprint TEXT NOT NULL, split TEXT NOT NULL, rows INTEGER NOT NULL, float32 BLOB NOT NULL,
    PRIMARY KEY (fingerprint, split)
)""",
    """CREATE TABLE IF NOT EXISTS searches (
    id TEXT PRIMARY KEY, task TEXT NOT NULL, encoder TEXT NOT NULL, fingerprint TEXT NOT NULL, features TEXT NOT NULL,
    protocol TEXT NOT NULL, head TEXT NOT NULL, search TEXT NOT NULL, asked INTEGER NOT NULL, trials INTEGER NOT NULL,
    epochs INTEGER NOT NULL, metric TEXT NOT NULL, score REAL, best TEXT, document TEXT NOT NULL,
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS trials (
    search_id TEXT NOT NULL REFERENCES searches (id) ON DELETE CASCADE, number INTEGER NOT NULL, rung INTEGER NOT NULL,
    epochs INTEGER NOT NULL, config TEXT NOT NULL, score REAL, kept INTEGER NOT NULL, heads TEXT NOT NULL,
    PRIMARY KEY (search_id, number, rung)
) WITHOUT ROWID""",
)
