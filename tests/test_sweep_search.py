"""Searches: ranges, equal budgets, choices on selection rows alone, halving's rungs, what is recorded."""

import json
import math
import sqlite3
from collections import Counter
from contextlib import closing

import pytest
from click.testing import CliRunner

import fit_heads
import pipeline
from pipeline.errors import ConfigError, KanglueError
from pipeline.fit import train
from pipeline.sweep.ranges import Range, parse_range
from pipeline.sweep.results import Results
from pipeline.sweep.run import describe_searches
from pipeline.sweep.spec import product_from, read_spec
from tests.helpers.synthetic_caches import write_cache


@pytest.fixture
def root(tmp_path):
    write_cache(tmp_path / "cache")
    return tmp_path


def sweep(root, **options):
    options = {"task": "rte", "encoder": "tiny", "head": "mlp", "epochs": 2, "hidden": [[4]]} | options
    return pipeline.sweep(cache=root / "cache", results=root / "runs/results.sqlite", device="cpu", **options)


def heads_by_id(root):
    with Results(root / "runs/results.sqlite") as store:
        return {head["id"]: head for head in store.heads()}


@pytest.mark.parametrize(
    ("text", "whole", "found"),
    [
        ("1e-4:1e-2:log", False, Range(1e-4, 1e-2, True, False)), ("0:0.1", False, Range(0, 0.1, False, False)),
        ("3:10", True, Range(3, 10, False, True)), (" 16 : 257 : log", True, Range(16, 257, True, True)),
    ],
)  # fmt: skip
def test_ranges(text, whole, found):
    assert parse_range("lr", text, whole=whole) == found


@pytest.mark.parametrize(
    ("text", "whole"),
    [(":", False), ("1:", False), ("1:2:3", False), ("2:1", False), ("1:1", True), ("0:1:log", False), ("1.5:3", True),
     ("a:b", False), ("1:inf", False), ("nan:1", False), ("1:2:log:log", False), ("-1:1:log", False)],
)  # fmt: skip
def test_bad_ranges_are_one_line_that_shows_good_ones(text, whole):
    with pytest.raises(ConfigError, match=r"`weight_decay`: expected values or a range such as .*, found '"):
        parse_range("weight_decay", text, whole=whole)


def test_whole_ranges_are_values_of_a_grid_and_others_need_a_search():
    table = {"task": "rte", "head": "effi_kan"}
    assert product_from(table | {"grid": "3:6"}, "sweep").combinations() == [
        ("clean", {"grid": grid}) for grid in (3, 4, 5)
    ]
    assert len(product_from(table | {"hidden": "3:6"}, "sweep").combinations()) == 3
    for options in ({"lr": "1e-4:1e-2"}, {"hidden": "16:257:log"}):
        with pytest.raises(ConfigError, match=r"expected values, .* or add `search='random'`"):
            product_from(table | options, "sweep").combinations()
    for options in ({"grid": ["3:6", 8]}, {"activation": "relu:gelu"}, {"grid_range": "-1:1"}):
        with pytest.raises(ConfigError, match="one range alone"):
            product_from(table | options, "sweep")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "bayes"}, "unknown search 'bayes': expected one of grid, random, tpe, halving"),
        ({"trials": 5}, "`trials` 5: expected `search="), ({"search": "random", "trials": 1}, "at least 2, found 1"),
        ({"search": "random", "search_seed": -1}, "`search_seed`: expected"),
        ({"search": "halving", "epochs": [2, 20]}, "`epochs`: expected one value in a search"),
        ({"search": "random", "epochs": "2:20"}, "`epochs`: expected one value in a search"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be(options, message):
    with pytest.raises(KanglueError, match=message):
        product_from({"task": "rte", "head": "mlp"} | options, "sweep")


def test_a_specification_takes_the_same_keys(tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text(
        'task="rte"\nhead="mlp"\nsearch="random"\ntrials=7\nsearch-seed=3\nlr="1e-4:1e-2:log"\nhidden="4:9"'
    )
    (product,) = read_spec(path)
    assert (product.search, product.trials, product.search_seed) == ("random", 7, 3)
    assert product.options == {"lr": Range(1e-4, 1e-2, True, False), "hidden": Range(4, 9, False, True)}


SPACE = {"lr": "1e-4:1e-1:log", "weight_decay": "0:0.1", "hidden": "3:9", "grid": [3, 5], "seeds": "0:2"}


@pytest.mark.parametrize("how", ["random", "tpe"])
def test_every_family_gets_the_same_trials_and_the_best_is_chosen_on_selection_rows(root, how):
    done = sweep(root, head=["linear", "mlp", "effi_kan"], search=how, trials=6, **SPACE)
    assert (done.heads, done.trained) == (36, 36)
    assert [(one["head"], one["trials"], one["epochs"]) for one in done.searches] == [
        (head, 6, 6 * 2 * 2) for head in ("linear", "mlp", "effi_kan")
    ]
    heads = heads_by_id(root)
    for one in done.searches:
        tried = {}
        for head in heads.values():
            if head["head"] == one["head"]:
                config = {name: value for name, value in head["config"].items() if name != "seed"}
                tried.setdefault(json.dumps(config), []).append(head["selection"]["accuracy"])
        assert len(tried) == 6
        assert all(len(scores) == 2 for scores in tried.values())
        assert one["score"] == pytest.approx(max(sum(scores) / 2 for scores in tried.values()))
        assert sum(tried[json.dumps(one["best"])]) / 2 == pytest.approx(one["score"])
        assert [heads[name]["config"] for name in one["heads"]] == [one["best"] | {"seed": seed} for seed in (0, 1)]
        for head in heads.values():
            assert 1e-4 <= head["config"]["lr"] <= 1e-1
            assert head["config"].get("hidden", [3])[0] in range(3, 9)
    assert set(done.chosen) == {head for one in done.searches for head in one["heads"]}


def test_draws_over_decades_are_even_in_decades(root):
    done = sweep(root, head="linear", search="random", trials=60, epochs=1, lr="1e-5:1e-1:log")
    decades = Counter(math.floor(math.log10(head["config"]["lr"])) for head in heads_by_id(root).values())
    assert done.trained == 60
    assert set(decades) == {-5, -4, -3, -2}
    assert min(decades.values()) >= 6


@pytest.mark.parametrize("how", ["random", "tpe", "halving"])
def test_the_same_search_trains_nothing_again(root, monkeypatch, how):
    options = {"search": how, "trials": 6, "epochs": 4, "head": ["linear", "mlp"], "lr": "1e-4:1e-1:log"}
    first = sweep(root, **options)
    other = sweep(root, **options | {"search_seed": 1})
    assert not set(other.ids) & set(first.ids)
    monkeypatch.setattr(train, "train_pack", lambda *_: pytest.fail("trained again"))
    again = sweep(root, **options)
    assert (again.trained, again.skipped, again.ids, again.searches) == (0, first.heads, first.ids, first.searches)


def test_halving_keeps_the_best_third_for_three_times_the_epochs(root):
    done = sweep(root, search="halving", trials=9, epochs=9, head=["mlp", "effi_kan"], lr="1e-5:1e-1:log")
    assert done.heads == done.trained == 2 * (9 + 3 + 1)
    heads = heads_by_id(root)
    with closing(sqlite3.connect(root / "runs/results.sqlite")) as database:
        columns = "search_id, number, rung, epochs, config, score, kept, heads"
        trials = database.execute(f"SELECT {columns} FROM trials").fetchall()
    for one in done.searches:
        assert one["rungs"] == [{"epochs": 1, "trials": 9}, {"epochs": 3, "trials": 3}, {"epochs": 9, "trials": 1}]
        assert one["epochs"] == 9 + 9 + 9
        own = [trial for trial in trials if trial[0] == one["id"]]
        for rung, count in enumerate((9, 3, 1)):
            ranked = sorted((trial for trial in own if trial[2] == rung), key=lambda trial: -trial[5])
            assert len(ranked) == count
            kept = {trial[1] for trial in ranked if trial[6]}
            assert len(kept) == max(1, count // 3)
            assert min(trial[5] for trial in ranked if trial[6]) >= max(
                (trial[5] for trial in ranked if not trial[6]), default=-1
            )
            assert rung == 2 or kept == {trial[1] for trial in own if trial[2] == rung + 1}
        # A head that was dropped is a whole head of fewer epochs, and says so.
        for _, _, _, epochs, config, _, _, names in own:
            for name in json.loads(names):
                assert heads[name]["config"]["epochs"] == json.loads(config)["epochs"] == epochs
        assert one["best"]["epochs"] == 9
        (best,) = one["heads"]
        assert heads[best]["config"] == one["best"] | {"seed": 0}


def test_a_trial_that_diverges_is_never_chosen(root):
    done = sweep(root, search="random", trials=2, lr=[1e30, 1e-3], seeds="0:2", epochs=3)
    (one,) = done.searches
    assert (done.diverged, one["trials"], one["best"]["lr"]) == (2, 2, 1e-3)
    done = sweep(root, search="random", trials=2, lr=[1e30, 1e29], epochs=3)
    assert (done.searches[0]["best"], done.searches[0]["score"], done.searches[0]["heads"]) == (None, None, [])


def test_a_space_smaller_than_the_trials_is_said_and_recorded(root, capsys):
    done = sweep(root, search="random", trials=50, lr=[1e-3, 1e-2], grid=[3, 5], head=["linear", "effi_kan"])
    assert [(one["requested"], one["trials"]) for one in done.searches] == [(50, 2), (50, 4)]
    assert "rte linear: 50 trials asked, but only 2 configurations found that differ" in capsys.readouterr().err


def test_the_command_searches_and_shows_what_it_chose(root):
    places = ["--cache", str(root / "cache"), "--results", str(root / "runs/results.sqlite"), "--device", "cpu"]
    options = ["--task", "rte", "--encoder", "tiny", "--head", "linear,mlp", "--epochs", "3", "--search", "halving"]
    options += ["--trials", "3", "--lr", "1e-4:1e-1:log", "--hidden", "3:9", "--weight-decay", "0:0.1"]
    result = CliRunner().invoke(fit_heads.main, ["sweep", *options, *places, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [one["head"] for one in document["searches"]] == ["linear", "mlp"]
    assert document["heads"] == 2 * (3 + 1)
    shown = CliRunner().invoke(fit_heads.main, ["sweep", *options, *places])
    assert "6 heads: all stored already\n2 heads: all stored already\n" in shown.stderr
    assert shown.stdout.count("rte ") == 2
    for wrong in (["--lr", "1:x"], ["--lr", "1e-2:1e-4"], ["--hidden", "9:3"]):
        result = CliRunner().invoke(fit_heads.main, ["sweep", *options, *wrong, *places])
        assert result.exit_code == 2
        assert "range such as" in result.stderr


def test_what_a_search_chose_is_said_in_a_line():
    found = {"task": "rte", "head": "mlp", "trials": 3, "epochs": 12, "metric": "accuracy", "score": 0.61234,
             "space": {"lr": "1e-4:1e-2:log", "hidden": [[8], [16, 8]], "clip": "1:2"},
             "best": {"lr": 0.00125178, "hidden": [16, 8], "clip": 1.5}}  # fmt: skip
    assert describe_searches([found, found | {"best": None, "trials": 1}]) == [
        "rte mlp: 3 trials, 12 epochs in all; chosen by accuracy 0.6123 on selection rows: lr 0.001252, hidden 16,8, "
        "clip 1.5",
        "rte mlp: 1 trial, 12 epochs in all; none can be chosen, since in each a head diverged or failed",
    ]
