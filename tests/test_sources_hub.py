import os
import subprocess
import sys

import pytest

from pipeline.errors import SourceError
from pipeline.sources import FolderSource, HubSource, scan
from pipeline.tasks import TASKS
from tests.helpers.glue_layout import write_parquet, write_tsv

OFFLINE = """
import sys
from pipeline.errors import SourceError
from pipeline.sources import open_source
source = open_source("mrpc")
if "datasets" in sys.modules:
    raise SystemExit("loaded too early")
try:
    source.splits
except SourceError as error:
    print(error)
"""
IMPORTS = """
import sys
import pipeline.sources
print(sorted({"torch", "transformers", "datasets", "pyarrow", "click"} & set(sys.modules)))
"""


def python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True)


def hub(task, folder):
    return HubSource(task, str(folder / "hub"), cache_dir=str(folder / "cache"))


@pytest.mark.parametrize("name", TASKS)
def test_the_hub_and_a_folder_agree(name, tmp_path, capfd):
    task = TASKS[name]
    write_parquet(task, tmp_path / "hub")
    write_tsv(task, tmp_path / "glue")
    from_hub, from_folder = hub(task, tmp_path), FolderSource(task, tmp_path / "glue")
    assert from_hub.splits == from_folder.splits == tuple(task.rows)
    for split in from_hub.splits:
        # repr, because NaN is not equal to itself
        assert repr(list(from_hub.rows(split))) == repr(list(from_folder.rows(split)))
    assert scan(from_hub) == scan(from_folder)
    assert capfd.readouterr().out == ""


def test_rows_longer_than_a_batch_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.sources.hub._BATCH", 3)
    write_parquet(TASKS["sst2"], tmp_path / "hub")
    write_tsv(TASKS["sst2"], tmp_path / "glue")
    rows = list(hub(TASKS["sst2"], tmp_path).rows("train"))
    assert len(rows) == 8
    assert rows == list(FolderSource(TASKS["sst2"], tmp_path / "glue").rows("train"))


def rewrite(folder, name, change):
    import pyarrow.parquet as pq

    write_parquet(TASKS[name], folder / "hub")
    path = folder / "hub" / name / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata({}), path)
    return hub(TASKS[name], folder)


def test_a_label_out_of_range_is_an_error(tmp_path):
    import pyarrow as pa

    def change(table):
        return table.set_column(table.schema.names.index("label"), "label", pa.array([0] * 7 + [2]))

    with pytest.raises(SourceError, match=r"expected a sst2 label in every row of train, found 2 in row 7; use `data"):
        list(rewrite(tmp_path, "sst2", change).rows("train"))


def test_a_missing_text_is_an_error(tmp_path):
    import pyarrow as pa

    def change(table):
        return table.set_column(0, "sentence", pa.array(["a"] * 7 + [None]))

    with pytest.raises(SourceError, match="expected text in every row of train, found none in row 7"):
        list(rewrite(tmp_path, "sst2", change).rows("train"))


def test_no_network_is_one_line(tmp_path):
    result = python(OFFLINE, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    assert line.startswith("expected the data set nyu-mll/glue, configuration mrpc, found it cannot be loaded (")
    assert "use `data=FOLDER` with GLUE's own files" in line


def test_importing_sources_is_light():
    result = python(IMPORTS)
    assert result.stdout == "[]\n", result.stderr
