"""The report's one inference: against scipy and statsmodels, against known truths, and by simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from benchmarks import inference as benchmark
from pipeline.metrics import METRICS
from pipeline.report.contrasts import Setting, compare
from pipeline.report.inference import Estimate, Scores, constant, corrected, difference, pool
from pipeline.report.ranks import rank_families
from pipeline.report.rows import guesses

RNG = np.random.default_rng


def scores_of(right, seeds=None):
    """Accuracies of answers [seeds, rows] that are right or not."""
    seeds = tuple(range(len(right))) if seeds is None else seeds
    return Scores(seeds, right.mean(1), right - right.mean(1, keepdims=True), 1 / right.shape[1])


def test_with_one_row_effect_alone_the_interval_is_the_paired_t_interval_over_rows():
    rng = RNG(0)
    a, b = (np.tile(rng.random(200) < p, (4, 1)).astype(float) for p in (0.8, 0.6))  # every seed answers alike
    (one,) = corrected([difference(scores_of(a), scores_of(b))])
    expected = stats.ttest_rel(a[0], b[0]).confidence_interval()
    assert (one.low, one.high) == pytest.approx(tuple(expected), abs=1e-9)


def test_with_seeds_that_differ_alone_it_is_the_paired_t_interval_over_seeds():
    gaps = np.array([0.03, 0.01, 0.02, 0.05])
    flat = np.zeros((4, 300))
    first, second = Scores(range(4), 0.7 + gaps, flat), Scores(range(4), np.full(4, 0.7), flat)
    (one,) = corrected([difference(first, second)])
    expected = stats.ttest_1samp(gaps, 0).confidence_interval()
    assert (one.low, one.high) == pytest.approx(tuple(expected), abs=1e-9)


def test_every_variance_is_counted_once():
    """Against the mean squares of the two-way analysis of variance, written out."""
    rng = RNG(1)
    table = 0.02 + 0.3 * rng.normal(size=(1, 50)) + 0.1 * rng.normal(size=(6, 1)) + 0.5 * rng.normal(size=(6, 50))
    score = Scores(range(6), table.mean(1), table - table.mean(1, keepdims=True))
    one = difference(score, constant(0.0, np.zeros(50), 0.0))
    grand, by_seed, by_row = table.mean(), table.mean(1), table.mean(0)
    seeds = 50 * ((by_seed - grand) ** 2).sum() / 5
    rows = 6 * ((by_row - grand) ** 2).sum() / 49
    residual = ((table - by_seed[:, None] - by_row + grand) ** 2).sum() / (5 * 49)
    assert one.error**2 == pytest.approx((rows + seeds - residual) / 300)


def test_what_is_planned_together_is_wider_and_the_words_follow_from_it():
    single = Estimate(0.03, ((0.0001, 1e6),), 10, 500)
    (alone,), together = corrected([single]), corrected([single] * 40)
    assert alone.low == pytest.approx(0.03 - stats.norm.ppf(0.975) * 0.01, abs=1e-5)
    assert together[0].low == pytest.approx(0.03 - stats.norm.ppf(1 - 0.025 / 40) * 0.01, abs=1e-5)
    assert (alone.word(0.02), together[0].word(0.02)) == ("found", "open")
    assert corrected([Estimate(0.001, ((1e-8, 1e6),), 10, 500)])[0].word(0.02) == "found"
    assert corrected([Estimate(0.001, ((1e-5, 1e6),), 10, 500)])[0].word(0.02) == "equivalent"


def test_what_is_detectable_has_the_power_of_a_t_test():
    (one,) = corrected([Estimate(0.0, ((0.0004, 7.0),), 8, 100)])
    beyond = stats.nct(7, one.detectable / 0.02).sf(stats.t.ppf(0.975, 7))
    assert beyond == pytest.approx(0.8, abs=1e-6)


def test_only_shared_seeds_are_compared_by_their_number_not_by_their_position():
    right = RNG(2).random((4, 60)) < 0.7
    first, second = scores_of(right, (0, 1, 2, 5)), scores_of(right[[2, 0, 1]], (2, 0, 1))
    one = difference(first, second)
    assert (one.seeds, one.value) == (3, 0.0)
    assert difference(first, scores_of(right, (10, 11, 12, 13))).error != 0
    assert corrected([difference(scores_of(right[:1], (3,)), scores_of(right[:1], (3,)))])[0].word(1) == "open"


def test_predictions_that_never_differ_on_these_rows_are_not_sure_to_agree_on_others():
    right = RNG(3).random((5, 100)) < 0.7
    (one,) = corrected([difference(scores_of(right), scores_of(right))])
    assert one.high == pytest.approx(stats.t.ppf(0.975, 99) / 100)


@pytest.mark.parametrize("values", [(0.06, -0.02, 0.01, 0.09, -0.03), (0.06, 0.0, 0.01, 0.12, 0.0)])
def test_means_over_tasks_equal_statsmodels(values):
    meta = pytest.importorskip("statsmodels.stats.meta_analysis")
    values, errors = np.array(values), np.array([0.02, 0.01, 0.03, 0.02, 0.02])
    estimates = [Estimate(v, ((e**2, 1e6),), 10, 500) for v, e in zip(values, errors, strict=True)]
    (one,) = corrected([pool(estimates)])
    expected = meta.combine_effects(values, errors**2, method_re="dl", use_t=True)
    assert one.value == pytest.approx(expected.mean_effect_re)
    assert one.error == pytest.approx(max(expected.sd_eff_w_re_hksj, expected.sd_eff_w_re))
    assert one.high == pytest.approx(one.value + stats.t.ppf(0.975, 4) * one.error)
    assert pool(estimates[:1]) is None


def jackknife(score, rows):
    whole = score(np.arange(rows))
    return np.array([(rows - 1) * (whole - score(np.delete(np.arange(rows), row))) for row in range(rows)])


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews_correlation"])
def test_influence_is_the_jackknife(metric):
    rng = RNG(1)
    labels, guess = rng.integers(0, 2, 60), rng.integers(0, 2, (2, 60))
    score = {"accuracy": lambda y, p: (y == p).mean(), "f1": f1_score, "matthews_correlation": matthews_corrcoef}[
        metric
    ]
    expected = [jackknife(lambda rows, p=p: score(labels[rows], p[rows]), 60) for p in guess]
    np.testing.assert_allclose(METRICS[metric].influence(guess, labels, 2), expected, atol=1e-10)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", ["pearson", "spearmanr", "pearson_spearmanr", "r2", "rmse"])
def test_influence_in_regression_is_near_the_jackknife(metric, ties):
    rng = RNG(2)
    labels = rng.normal(size=300).round(0 if ties else 9)
    values = labels + rng.normal(size=300).round(0 if ties else 9)
    record = METRICS[metric]
    expected = jackknife(lambda rows: record.score(values[None, rows], labels[rows], 1)[0], 300)
    influence = record.influence(values[None], labels, 1)[0]
    assert abs(influence.mean()) < 1e-9
    assert influence.std() == pytest.approx(expected.std(), rel=0.05)
    assert np.corrcoef(influence, expected)[0, 1] > 0.99


def test_what_guessing_scores():
    labels = np.array([0] * 30 + [1] * 70)
    found = guesses("f1", labels, 2, 2 * 0.7 / 1.7)
    assert found["majority"].scores[0] == pytest.approx(f1_score(labels, np.ones(100)))
    assert found["chance"].scores[0] == pytest.approx(0.7 / 1.2)
    assert guesses("accuracy", labels, 2, 0.7)["chance"].scores[0] == 0.5
    assert list(guesses("r2", labels.astype(float), 1, None)) == ["chance"]


def settings_of(tasks, families=("mlp", "linear", "a_kan", "b_kan"), plan=None, gain=0.0, seed=0):
    settings = {}
    for task in tasks:
        rng = RNG((seed, len(task), ord(task[0])))
        level = rng.normal(size=400)
        right = {
            name: (level + 0.5 * rng.normal(size=(6, 400)) + (gain if name == "a_kan" else 0) > -0.5).astype(float)
            for name in families
        }
        settings[task] = Setting(task, {name: scores_of(one) for name, one in right.items()}, {}, plan)
    return settings


def test_every_family_is_held_against_the_baselines_once():
    done = compare(settings_of(["x", "y"]))
    pairs = {(one.first, one.second) for one in done.of("x")}
    assert pairs == {("linear", "mlp"), ("a_kan", "mlp"), ("b_kan", "mlp"), ("a_kan", "linear"), ("b_kan", "linear")}
    assert {one.estimate.planned for one in done.planned} == {10}
    assert {one.estimate.planned for one in done.means} == {2 * 3}
    assert [(one.first, one.second, one.tasks) for one in done.means] == [
        (name, "mlp", ("x", "y")) for name in ("linear", "a_kan", "b_kan")
    ]
    assert len(compare(settings_of(["x"]), every_pair=True).planned) == 6
    assert {one.second for one in compare(settings_of(["x"]), ["b_kan"]).planned} == {"b_kan"}


def test_tasks_that_a_later_sweep_adds_take_nothing_back():
    first = settings_of(["x"], plan="first", gain=0.4)
    before = compare(first).of("x")
    after = compare(first | settings_of(["y", "z", "u", "v", "w"], plan="second")).of("x")
    assert [one.estimate for one in after] == [one.estimate for one in before]
    assert any(one.estimate.found for one in before)


def test_settings_of_one_task_are_no_surer_than_one_of_them():
    settings = settings_of(["x", "y"])
    twice = settings | {"x again": settings["x"]}
    once, again = (compare(some).means[0].estimate for some in (settings, twice))
    assert again.error == pytest.approx(once.error)
    assert compare(settings | {"y": settings_of(["y"])["y"].__class__("y", {}, {})}).means == []


def test_ranks_against_scipy_and_the_published_table():
    scores = RNG(0).random((6, 4)) + np.array([0, 0, 0, 2])
    tasks = {f"t{i}": [{f"f{j}": scores[i, j] for j in range(4)}] for i in range(6)}
    found = rank_families(tasks)
    assert found.names[0] == "f3"
    assert found.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    # Demsar 2006, table 5: q = 2.569 for four classifiers at 5%.
    assert found.critical == pytest.approx(2.569 * np.sqrt(4 * 5 / 36), abs=1e-3)
    assert found.enough
    assert found.alike[0][0] == "f3"


def test_ten_families_on_four_tasks_are_told_apart_by_six_point_eight_ranks():
    rng = RNG(0)
    found = rank_families({f"t{i}": [{f"f{j}": rng.random() for j in range(10)}] for i in range(4)})
    assert f"{found.critical:.1f}" == "6.8"
    assert "6.8 apart, of 9 at most" in found.sentence
    assert found.alike == (found.names,)
    assert not found.enough


def test_many_tasks_are_enough_a_task_counts_once_and_scores_keep_their_families():
    one = [{"a": 0.9, "b": 0.5, "c": 0.1, "d": 0.0}, {"d": 0.0, "c": 0.1, "a": 0.8, "b": 0.9}]
    found = rank_families({f"t{i}": one for i in range(20)})
    assert found.enough
    assert found.ranks == pytest.approx((1.5, 1.5, 3.0, 4.0))
    assert ("a", "d") not in found.alike
    assert rank_families({"t": [{"a": 1.0}]}) is None
    assert rank_families({}) is None


def made_up(rng, rows=300, seeds=40):
    """A population of five families that answer by row, seed and chance."""
    labels = (rng.random(rows) < 0.6).astype(np.int64)
    level = 0.6 + rng.normal(size=(5, 1, rows)) * 0.4 + rng.normal(size=rows) + 0.3 * rng.normal(size=(seeds, rows))
    right = level + 0.6 * rng.normal(size=(5, seeds, rows)) > 0
    return benchmark.Population(
        "made up", "f1", labels, np.where(right, labels, 1 - labels), 2, np.full(rows, 1 / rows)
    )


@pytest.mark.parametrize("seeds", [5, 10])
def test_intervals_hold_and_nothing_is_found_where_nothing_is(seeds):
    """The small version of benchmarks/inference.py, which has 2,000 reports of real heads."""
    tasks = [benchmark.balanced(made_up(RNG(number))) for number in range(2)]
    shares = benchmark.simulate(tasks, 150, seeds)
    assert shares["found"] <= 0.10  # 5% and three standard errors
    assert 0.93 <= shares["alone"].mean() <= 0.985
    assert benchmark.noise(tasks, 60, seeds) <= 0.10


def test_a_difference_that_is_called_detectable_is_mostly_found():
    tasks = [benchmark.balanced(made_up(RNG(4)))]
    shift = benchmark.called_detectable(tasks, 10, 0, reports=20)
    new, old = benchmark.power(tasks, 100, 10, shift, 0)
    assert 0.65 <= new <= 0.93
    assert old < new
