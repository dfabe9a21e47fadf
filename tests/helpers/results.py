"""A results database that a test changed by hand, with digests of what it holds now."""

from pipeline.sweep import results
from pipeline.sweep.schema import digest


def reseal(store: results.Results) -> None:
    """Make every digest fit its row again."""
    store._connection.create_function("digest_of", -1, digest)
    for table, columns in results._DIGESTED.items():
        store._run(f"UPDATE {table} SET digest = digest_of({columns})")
    for head, row in store._rows().items():
        store._run("UPDATE heads SET digest = ? WHERE id = ?", (digest(*row[1:]), head))
