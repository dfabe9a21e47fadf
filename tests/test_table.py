"""`fit_heads.py table`: intervals against SciPy, CSV, and SQL that can only read."""

import csv
import hashlib
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

import fit_heads
from pipeline.sweep.results import Results
from pipeline.sweep.table import summarise, t_interval
from tests.test_sweep_results import CACHE, record


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "r.sqlite"
    with Results(path, create=True) as store:
        store.add_cache(CACHE)
        store.add(
            record(f"{head}{seed}", head=head, seed=seed, config={"lr": 0.1, "seed": seed} | extra,
                   metrics={"validation": {"accuracy": 0.5 + 0.01 * seed}, "selection": {"accuracy": 0.5}})
            for head, extra in (("mlp", {"hidden": [64]}), ("mlp", {"hidden": [8], "new": 1}), ("linear", {}))
            for seed in range(3) for head in [head + "x" * ("new" in extra)]
        )  # fmt: skip
        store.add([record("d", head="mlp", seed=3, status="diverged", metrics={}, outputs={}, config={"lr": 0.1})])
    return path


def call(results, *arguments):
    return CliRunner().invoke(fit_heads.main, ["table", "--results", str(results), *arguments])


def test_the_interval_is_students_t():
    values = [0.71, 0.74, 0.69, 0.75, 0.70]
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert t_interval(values) == pytest.approx(expected, abs=1e-12)
    assert t_interval([0.5]) == (None, None)


def test_lines_hold_their_heads(results):
    with Results(results) as store:
        line = next(line for line in summarise(store) if line.head == "linear")
    assert (line.n, line.seeds, line.scores) == (3, (0, 1, 2), (0.5, 0.51, 0.52))
    assert (line.mean, line.std) == pytest.approx((0.51, 0.01))
    assert (line.low, line.high) == pytest.approx(stats.t.interval(0.95, 2, 0.51, 0.01 / np.sqrt(3)))


def test_configurations_of_one_family_are_lines_apart(tmp_path):
    path = tmp_path / "r.sqlite"
    with Results(path, create=True) as store:
        store.add_cache(CACHE)
        for place, config in enumerate(({"lr": 0.1}, {"lr": 0.2}, {"lr": 0.2, "later": True})):
            store.add(record(f"{place}{seed}", seed=seed, config=config | {"seed": seed}) for seed in range(2))
        lines = summarise(store)
    assert sorted(line.variant for line in lines) == ["lr=0.1", "lr=0.2", "lr=0.2 later=True"]
    assert [line.n for line in lines] == [2, 2, 2]


def test_csv_has_a_row_for_each_head(results):
    text = call(results, "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    documents = json.loads(call(results, "--json").stdout)
    assert [row["id"] for row in rows] == [document["id"] for document in documents]
    assert len(rows) == 10
    frame = pd.read_csv(io.StringIO(text), index_col="id")
    assert frame.loc["linear2", "validation.accuracy"] == 0.52
    assert frame.loc["mlp0", "config.hidden"] == "[64]"
    assert np.isnan(frame.loc["d", "validation.accuracy"])
    assert frame.loc["d", "status"] == "diverged"


def test_sql_answers(results):
    asked = "select head, count(*) as n, avg(value) from heads join metrics on id = head_id group by head order by 1"
    assert json.loads(call(results, "--sql", asked, "--json").stdout)[0]["n"] == 6
    assert call(results, "--sql", asked, "--csv").stdout.splitlines()[0] == "head,n,avg(value)"
    assert "linear" in call(results, "--sql", asked).stdout
    blob = "select data from outputs limit 1"
    assert json.loads(call(results, "--sql", blob, "--json").stdout) == [{"data": "<24 bytes>"}]
    recursive = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 4) select sum(i) as s from n"
    assert json.loads(call(results, "--sql", recursive, "--json").stdout) == [{"s": 10}]


@pytest.mark.parametrize(
    "statement",
    [
        "delete from heads", "update heads set head = 'x'", "insert into baselines values ('f','v',1,'m',1)",
        "drop table heads", "create table t (a)", "create temp table t (a)", "attach 'other.sqlite' as o",
        "pragma user_version = 9", "pragma writable_schema = 1", "vacuum", "vacuum into 'copy.sqlite'",
        "reindex", "begin", "replace into labels values ('f', 'v', 1, '<i8', x'00')", "select load_extension('x')",
        "select 1; delete from heads", "with x as (select 1) delete from heads", "", "selct", "select nothing",
        "explain delete from heads returning *", "delete from heads returning id",
    ],
)  # fmt: skip
def test_sql_that_is_not_one_select_is_refused(results, tmp_path, monkeypatch, statement):
    monkeypatch.chdir(tmp_path)
    before, files = hashlib.sha256(results.read_bytes()).digest(), sorted(tmp_path.iterdir())
    result = call(results, "--sql", statement)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: --sql: expected")
    assert result.stderr.count("\n") == 1
    assert hashlib.sha256(results.read_bytes()).digest() == before
    assert sorted(tmp_path.iterdir()) == files


def test_sql_reads_a_file_whose_name_is_a_question(tmp_path, results):
    odd = tmp_path / "what? 50% #1.sqlite"
    odd.write_bytes(results.read_bytes())
    assert json.loads(call(odd, "--sql", "select count(*) as n from heads", "--json").stdout) == [{"n": 10}]


def test_sql_on_what_is_no_database(tmp_path):
    assert "expected a results database, found nothing" in call(tmp_path / "none", "--sql", "select 1").stderr
    (tmp_path / "text").write_text("no database" * 100)
    assert "expected a results database" in call(tmp_path / "text", "--sql", "select 1").stderr
    assert call(tmp_path / "text", "--sql", "select 1").exit_code == 1


@pytest.mark.parametrize("arguments", [("--csv", "--json"), ("--sql", "select 1", "--task", "rte")])
def test_options_that_exclude_each_other(results, arguments):
    assert call(results, *arguments).exit_code == 2


def test_brackets_in_names_are_no_markup(tmp_path):
    path = tmp_path / "r.sqlite"
    with Results(path, create=True) as store:
        store.add_cache(CACHE)
        store.add([record("a", cache="[red]x[/red]"), record("b", cache="[/nope]")])
    shown = call(path).stdout
    assert "[red]x[/red]" in shown
    assert "[/nope]" in shown


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_a_narrow_terminal_loses_columns_and_says_which_but_no_words(results, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    text = call(results).stdout
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for whole in ("accuracy", "0.5100 ± 0.0100", "hidden=[64]"):
        assert whole in text
    spared = {name: name not in lines[1] for name in ("fit s", "FLOPs", "parameters", "95% interval")}
    caption = " ".join(text.split("└")[1].split())
    assert all((name in caption) == gone for name, gone in spared.items())
    assert spared["fit s"] is (width < 200)


def test_in_a_pipe_a_table_is_as_wide_as_it_takes(results, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as CI does
    text = re.sub(r"\x1b\[[0-9;]*m", "", call(results).stdout)
    assert {"fit s", "95% interval", "diverged"} <= {part.strip() for part in text.splitlines()[1].split("┃")}
    assert "want of width" not in text
