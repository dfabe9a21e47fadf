"""The report's statistics against SciPy and statsmodels, and by simulation under the null."""

import gc

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from benchmarks.null_sweeps import rates, simulated
from pipeline.report.ranks import rank_families
from pipeline.report.rows import influence, step_of
from pipeline.report.statistics import Sample, compare, equivalence, holm

SEEDS = tuple(range(10))


def sample(name, scores, **rest):
    return Sample(name, SEEDS[: len(scores)], scores, **rest)


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    common = rng.normal(0.7, 0.02, 10)
    a, b = common + rng.normal(0.03, 0.01, 10), common + rng.normal(0, 0.01, 10)
    right = rng.random((2, 300)) < [[0.8], [0.6]]
    return (
        sample("a", a, merit=right[0], influence=right[0] - 0.8),
        sample("b", b, merit=right[1], influence=right[1] - 0.6),
    )


def test_a_pair_against_scipy_and_statsmodels(pair):
    a, b = pair
    (found,) = compare({"x": pair}, {"x": 0.0})
    t = stats.ttest_rel(a.scores, b.scores)
    assert found.p_seeds == pytest.approx(t.pvalue, rel=1e-9)
    gap = np.asarray(a.scores) - b.scores
    assert found.difference == pytest.approx(gap.mean())
    assert found.effect == pytest.approx(gap.mean() / gap.std(ddof=1))
    table = [[(a.merit & b.merit).sum(), (a.merit & ~b.merit).sum()],
             [(~a.merit & b.merit).sum(), (~a.merit & ~b.merit).sum()]]  # fmt: skip
    assert found.p_rows == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (found.wins, found.losses) == (table[0][1], table[1][0])
    corrected = multipletests([found.p_seeds, found.p_rows], method="holm")[1]
    assert [found.q_seeds, found.q_rows] == pytest.approx(list(corrected))
    assert found.found
    assert found.low < found.difference < found.high
    assert found.visible > 0


def test_everything_shown_is_corrected_together(pair):
    a, b = pair
    third = sample("c", b.scores, merit=b.merit, influence=b.influence)
    found = compare({"x": (a, b, third), "y": (a, b)}, {})
    plain = [one.p_seeds for one in found] + [one.p_rows for one in found]
    assert len(plain) == 8
    expected = multipletests(plain, method="holm")[1]
    assert [one.q_seeds for one in found] + [one.q_rows for one in found] == pytest.approx(list(expected))


def test_holm_leaves_out_what_is_not_there():
    found = holm([0.01, np.nan, 0.04])
    assert found[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(found[1])
    assert holm([]).shape == (0,)


def test_only_replicates_that_both_have_are_paired():
    a = Sample("a", (0, 1, 2, 5), (0.5, 0.6, 0.8, 0.1))
    b = Sample("b", (2, 9, 1, 0), (0.7, 0.0, 0.55, 0.4))
    (found,) = compare({"x": (a, b)}, {})
    assert found.n == 3
    assert found.p_seeds == pytest.approx(stats.ttest_rel([0.5, 0.6, 0.8], [0.4, 0.55, 0.7]).pvalue)
    assert np.isnan(found.p_rows)
    assert not found.found


@pytest.mark.parametrize("seeds", [1, 0])
def test_one_seed_has_no_test(seeds):
    a, b = Sample("a", (0,), (0.9,)), Sample("b", (1 - seeds,), (0.1,))
    (found,) = compare({"x": (a, b)}, {})
    assert found.difference == pytest.approx(0.8)
    assert np.isnan([found.p_seeds, found.q_seeds, found.low, found.bound]).all()
    assert not found.found


def test_replicates_that_repeat_are_no_proof():
    a, b = sample("a", [0.51] * 5), sample("b", [0.5] * 5)
    (found,) = compare({"x": (a, b)}, {"x": 0.01})
    # Scores in steps of 0.01 that all differ by one step: t = 0.01 / (0.01 / sqrt(6) / sqrt(5)).
    assert found.p_seeds == pytest.approx(2 * stats.t.sf(np.sqrt(30), 4))
    same, none = sample("a", [0.5] * 5), sample("b", [0.5] * 5)
    assert compare({"x": (same, none)}, {})[0].p_seeds == 1


def test_regression_compares_squared_errors_by_row():
    rng = np.random.default_rng(0)
    errors = -rng.random((2, 50))
    a, b = (sample(name, [0.5, 0.6], merit=one, influence=one) for name, one in zip("ab", errors, strict=True))
    assert compare({"x": (a, b)}, {})[0].p_rows == pytest.approx(stats.ttest_rel(*errors).pvalue)


def test_directions_that_contradict_are_not_found(pair):
    a, b = pair
    turned = sample("b", b.scores, merit=a.merit, influence=a.influence)
    (found,) = compare({"x": (sample("a", a.scores, merit=b.merit, influence=b.influence), turned)}, {})
    assert max(found.q_seeds, found.q_rows) < 0.05
    assert not found.found


def test_equivalence_is_a_probability(pair):
    a, b = pair
    assert 0 <= equivalence(a, b) < 0.05
    near = sample("n", np.asarray(a.scores) + np.linspace(-1e-3, 1e-3, 10))
    assert equivalence(a, near) > 0.95
    assert np.isnan(equivalence(a, a))


def jackknife(score, rows):
    whole = score(np.arange(rows))
    return np.array([(rows - 1) * (whole - score(np.delete(np.arange(rows), row))) for row in range(rows)])


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews_correlation"])
def test_influence_is_the_jackknife(metric):
    rng = np.random.default_rng(1)
    labels, found = rng.integers(0, 2, 60), rng.normal(size=(2, 60, 2))
    guess = found.argmax(2)
    score = {
        "accuracy": lambda one: lambda rows: (guess[one][rows] == labels[rows]).mean(),
        "f1": lambda one: lambda rows: f1_score(labels[rows], guess[one][rows]),
        "matthews_correlation": lambda one: lambda rows: matthews_corrcoef(labels[rows], guess[one][rows]),
    }[metric]
    expected = np.mean([jackknife(score(one), 60) for one in (0, 1)], 0)
    np.testing.assert_allclose(influence(metric, found, labels), expected, atol=1e-10)


def test_influence_of_correlations_is_near_the_jackknife():
    rng = np.random.default_rng(2)
    labels = rng.normal(size=400)
    values = labels + rng.normal(size=400)

    def score(rows):
        return (stats.pearsonr(values[rows], labels[rows])[0] + stats.spearmanr(values[rows], labels[rows])[0]) / 2

    expected = jackknife(score, 400)
    found = influence("pearson_spearmanr", values[None, :, None], labels)
    assert found.std() == pytest.approx(expected.std(), rel=0.05)


def test_ranks_against_scipy_and_the_published_table():
    rng = np.random.default_rng(0)
    scores = rng.random((6, 4)) + np.array([0, 0, 0, 2])
    tasks = {f"t{i}": {f"f{j}": [scores[i, j]] for j in range(4)} for i in range(6)}
    found = rank_families(tasks)
    assert found.names[0] == "f3"
    assert found.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    # Demsar 2006, table 5: q = 2.569 for four classifiers at 5%.
    assert found.critical == pytest.approx(2.569 * np.sqrt(4 * 5 / 36), abs=1e-3)
    assert found.enough
    assert found.alike[0][0] == "f3"


def test_ten_families_on_four_tasks_are_told_apart_by_six_point_eight_ranks():
    rng = np.random.default_rng(0)
    found = rank_families({f"t{i}": {f"f{j}": [rng.random()] for j in range(10)} for i in range(4)})
    assert f"{found.critical:.1f}" == "6.8"
    assert "6.8 apart, of 9 at most" in found.sentence
    assert found.alike == (found.names,)
    assert not found.enough
    assert "Too few tasks" in found.sentence


def test_many_tasks_are_enough_and_a_task_counts_once():
    tasks = {f"t{i}": {"a": [0.9, 0.8], "b": [0.5, 0.9], "c": [0.1, 0.1], "d": [0.0]} for i in range(20)}
    found = rank_families(tasks)
    assert found.enough
    assert found.names == ("a", "b", "c", "d")
    assert ("a", "d") not in found.alike
    assert rank_families({"t": {"a": [1.0]}}) is None
    assert rank_families({}) is None


@pytest.mark.parametrize(("null", "replicates"), [("seeds", 5), ("quiet", 10)])
def test_under_the_null_hardly_anything_is_rejected(null, replicates):
    gc.freeze()
    try:
        any_test, _, _, found, missed = rates(100, replicates, null, seed=7)
    finally:
        gc.unfreeze()
    assert max(any_test, missed) <= 0.11  # 5% and two and a half standard errors; all 2,000 in benchmarks/
    assert found == 0


def test_a_real_difference_is_found():
    rng = np.random.default_rng(0)
    places, steps = simulated(rng, 10, "seeds")
    better = places["sst2"][0]
    merit = better.merit | (rng.random(872) < 0.5)
    places["sst2"][0] = Sample("f0", better.seeds, np.asarray(better.scores) + 0.1, merit, better.influence)
    found = [one for one in compare(places, steps) if one.found]
    assert {(one.place, one.first) for one in found} == {("sst2", "f0")}
    assert len(found) == 4


def test_steps():
    assert step_of("accuracy", 100) == 0.01
    assert step_of("matthews_correlation", 100) == 0.02
    assert step_of("pearson_spearmanr", 100) == 0
