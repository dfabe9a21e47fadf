"""Looking after results: compare rows with files, forget heads, merge what another machine trained."""

import json
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ConfigError, ResultsError
from pipeline.models.document import fault, head_folder, heads_folder
from pipeline.progress import say
from pipeline.publish import replace_folder, sync, sync_entries, work_folder
from pipeline.sweep.query import query
from pipeline.sweep.results import Results

__all__ = ["Checked", "Forgotten", "Merged", "forget", "merge", "sound", "verify"]


def sound(known: Mapping[str, str], results: Path) -> tuple[set[str], set[str]]:
    """Stored heads (SHA-256 by id) whose files are there and sound, and those to be trained again, which are named."""
    broken = _broken(known, results)
    for name in list(broken)[:5]:
        say(f"head {name}: stored, but its files in {heads_folder(results)} are {broken[name]}; it is trained again")
    if len(broken) > 5:
        say(f"and {len(broken) - 5} heads more")
    return set(known) - set(broken), set(broken)


def _broken(known: Mapping[str, str], results: Path) -> dict[str, str]:
    """What is wrong with heads' files, by id; heads whose files are sound are not there."""

    def look(name: str) -> str | None:
        try:
            return fault(head_folder(results, name), known[name])
        except ResultsError as error:
            return str(error)

    with ThreadPoolExecutor() as readers:
        faults = dict(zip(known, readers.map(look, known), strict=True))
    return {name: words for name, words in faults.items() if words is not None}


@dataclass(frozen=True)
class Checked:
    """What `verify` saw (document of `fit_heads.py verify --json`).

    `database` are faults of the file and its rows, `files` faults of heads' folders by id, `orphans` heads' folders
    without a row that no `load` made.
    """

    heads: int
    database: tuple[str, ...]
    files: dict[str, str]
    orphans: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong; orphans take room and do no harm."""
        return not self.database and not self.files


def verify(results: str | Path) -> Checked:
    """Compare a results database with its digests and every head's files with its row. Raises `ResultsError`."""
    path = Path(results)
    with Results(path) as store:
        faults = store.faults()
        known = {} if any("damaged" not in line for line in faults) else store.known()
    folder = heads_folder(path)
    there = (
        sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".")) if folder.is_dir() else []
    )
    orphans = tuple(name for name in there if name not in known and not _loaded(folder / name))
    return Checked(len(known), tuple(faults), _broken(known, path), orphans)


def _loaded(folder: Path) -> bool:
    """Whether a head's folder is one that `load` made, which no row names."""
    try:
        return "loaded_from" in json.loads((folder / "config.json").read_text(encoding="utf-8"))["provenance"]
    except (OSError, ValueError, TypeError, KeyError):
        return False


@dataclass(frozen=True)
class Forgotten:
    """Heads whose rows and files are gone (document of `fit_heads.py forget --json`)."""

    ids: tuple[str, ...] = ()


def forget(results: str | Path, ids: Collection[str] = (), where: str | None = None) -> Forgotten:
    """Remove heads, by id and by a condition in SQL on the columns of `heads`: rows first, then files.

    A head that is forgotten is trained again when a sweep has it. Raises a `KanglueError`; then nothing is removed.
    """
    path = Path(results)
    if not ids and where is None:
        raise ConfigError("expected ids or `where`, found neither")
    with Results(path) as store:
        chosen = dict.fromkeys(ids)
        if where is not None:
            _, rows = query(path, f"SELECT id FROM heads WHERE {where}")
            chosen |= dict.fromkeys(str(row[0]) for row in rows)
        known = store.known(chosen)
        folders = {name: head_folder(path, name) for name in chosen}
        for name in ids:
            if name not in known and not folders[name].is_dir():
                raise ResultsError(
                    f"head {name!r}: expected an id of {path}, found none; fit_heads.py table lists them"
                )
        store.remove(known)
    for folder in folders.values():
        if folder.is_dir():
            shutil.rmtree(folder)
    return Forgotten(tuple(chosen))


@dataclass(frozen=True)
class Merged:
    """What came in from another database (document of `fit_heads.py merge --json`).

    `skipped` heads were here already; `faults` says by id which were left out since their files are damaged.
    """

    added: int
    skipped: int
    faults: dict[str, str] = field(default_factory=dict)


def merge(results: str | Path, other: str | Path) -> Merged:
    """Bring the heads of another database, rows and files, into `results`; a head that is here already is kept.

    Only heads whose files are sound come in. Raises a `KanglueError`; then nothing has changed.
    """
    path, other = Path(results), Path(other)
    if path.exists() and other.exists() and path.samefile(other):
        raise ConfigError(f"{other}: expected another results database, found the same")
    with Results(other) as source:
        if faults := source.faults():
            raise ResultsError(f"{other}: expected a whole results database, found {faults[0]}; nothing was merged")
        theirs = source.known()
    with Results(path, create=True) as store:
        new = {name: sha256 for name, sha256 in theirs.items() if name not in store.known(theirs)}
        broken = _broken(new, other)
        wanted = [name for name in new if name not in broken]
        with work_folder(heads_folder(path)) as work:
            for name in wanted:
                shutil.copytree(head_folder(other, name), work / name)
            sync(work)

            def publish() -> None:
                for name in wanted:
                    replace_folder(work / name, heads_folder(path) / name)
                sync_entries(heads_folder(path))

            store.copy_from(other, wanted, publish)
    return Merged(len(wanted), len(theirs) - len(new), broken)
