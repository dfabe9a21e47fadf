"""Heads, exports, configurations and results files changed at random and on purpose, from good ones.

`mutations(number, seed)` yields (name, function of a folder) for a head's folder, an export's and a database.
"""

import json
import os
import random
import sqlite3
import struct
from contextlib import closing

#: A file that code from a mutated file would make.
TRACE = "/tmp/kanglue-code-ran"
STRINGS = (
    f"0) + __import__('os').system('touch {TRACE}') + (1",
    f"{{__import__('os').system('touch {TRACE}')}}",
    "../../../etc/x",
    "..", "", "/etc/passwd", "\x1b]0;owned\x07", "a" * 100_000, "\x00", "NaN", "1e999", "\ud800",
    "'; DROP TABLE heads; --",
)  # fmt: skip
VALUES = (
    *STRINGS,
    None,
    True,
    -1,
    0,
    1 << 70,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    ["x"],
    {"a": 1},
    [1e9],
)


def _places(document, path=()):
    """Paths of every value in a JSON document."""
    if path:
        yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, inner in items:
        yield from _places(inner, (*path, key))


def change_json(file, drawn):
    """One value of a JSON file replaced, removed, or its text damaged."""
    if drawn.random() < 0.15:
        data = bytearray(file.read_bytes())
        del data[drawn.randrange(len(data)) :]
        file.write_bytes(data + drawn.choice((b"", b"\xff\xfe", b"[" * 100_000, b"{" * 50)))
        return
    document = json.loads(file.read_text())
    *before, last = drawn.choice(list(_places(document)))
    inner = document
    for key in before:
        inner = inner[key]
    if drawn.random() < 0.15:
        del inner[last]
    else:
        inner[last] = drawn.choice(VALUES)
    file.write_text(json.dumps(document), encoding="utf-8", errors="surrogatepass")


def change_bytes(file, drawn):
    """Bits flipped, bytes cut, zeroed or added; of safetensors also a header that lies."""
    data = bytearray(file.read_bytes())
    kind = drawn.randrange(6)
    if kind == 0:
        data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
    elif kind == 1:
        del data[drawn.randrange(len(data)) :]
    elif kind == 2:
        data[:] = bytes(len(data))
    elif kind == 3:
        data += os.urandom(100)
    elif kind == 4:
        data[:8] = struct.pack("<Q", drawn.choice((0, 1, 1 << 20, 1 << 40, (1 << 64) - 1)))
    else:
        at = drawn.randrange(8, len(data))
        data[at : at + 8] = struct.pack("<d", drawn.choice((float("nan"), float("inf"), 1e300)))
    file.write_bytes(data)


def change_database(file, drawn):
    """Bytes, schema or values of a results database."""
    if drawn.random() < 0.5:
        change_bytes(file, drawn)
        return
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA foreign_keys = OFF")
        table = drawn.choice(("heads", "metrics", "curves", "outputs", "labels", "caches", "baselines"))
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        kind = drawn.randrange(4)
        if kind == 0:
            value = drawn.choice([one for one in VALUES if isinstance(one, str | float) and one != "\ud800"])
            database.execute(f"UPDATE OR IGNORE {table} SET {drawn.choice(columns)} = ?", (value,))
        elif kind == 1:
            database.execute(f"DROP TABLE {table}")
        elif kind == 2:
            database.execute(f"ALTER TABLE {table} RENAME TO x")
            database.execute(
                f"CREATE VIEW {table} AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT * FROM n"
            )
        else:
            database.execute(f"PRAGMA user_version = {drawn.choice((0, 2, 99))}")
        database.commit()


def change_folder(folder, drawn):
    """A file of a folder gone, a pipe, a link elsewhere, or changed inside."""
    file = drawn.choice(sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")))
    kind = drawn.random()
    if kind < 0.1:
        file.unlink()
        drawn.choice(
            (lambda: None, lambda: os.mkfifo(file), lambda: file.mkdir(), lambda: file.symlink_to("/dev/zero"))
        )()
    elif file.suffix == ".json":
        change_json(file, drawn)
    else:
        change_bytes(file, drawn)


def generator(seed):
    """The draws of one mutation."""
    return random.Random(seed)
