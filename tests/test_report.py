"""The report: what it says, what it refuses to say, that data shows as text, and how it looks in a browser."""

import io
import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import fit_heads
from benchmarks.report import made_up_results
from pipeline.report.gather import gather
from pipeline.report.page import write_report
from pipeline.report.provenance import provenance
from pipeline.report.verdict import conclude
from pipeline.store import CacheWriter
from pipeline.sweep.results import Results
from tests.helpers import browser as chromium
from tests.helpers.results import reseal
from tests.helpers.store_kit import ATTRIBUTES

ATTACK = "<script>alert(1)</script>"


def call(*arguments):
    return CliRunner().invoke(fit_heads.main, ["report", *map(str, arguments)])


def verdict_of(results, **where):
    return conclude(gather(results, results.parent / "no_cache", where))


def write_cache(path, rows, texts):
    """A cache with texts whose labels fit no results: only its texts are read where the results have labels."""
    labels = np.arange(rows) % 2
    attributes = ATTRIBUTES | {"task": "sst2", "labels": ["negative", ATTACK]}
    with CacheWriter(
        path, attributes, {"train": 4, "validation": rows}, ("idx", "text", "label", "length"), {}
    ) as writer:
        for block in writer.todo():
            at = np.arange(block.start, block.stop)
            writer.write(block, {
                "idx": at, "text": [texts(row) for row in at], "label": labels[at % rows],
                "length": np.full(len(at), 3, np.int32),
            })  # fmt: skip
        writer.finish()
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A made-up sweep of three families with a hostile cache beside it: (results, cache folder)."""
    from pipeline.store import open_cache

    folder = tmp_path_factory.mktemp("swept")
    path = write_cache(folder / "cache/minilm/sst2.h5", 120, lambda row: f'{ATTACK} <b>row {row}</b> & "more"')
    results = made_up_results(
        folder / "results.sqlite", rows={"sst2": 120, "rte": 90}, families=("linear", "mlp", "effi_kan"), seeds=6,
        gain={"effi_kan": 1.0}, epochs=4,
    )  # fmt: skip
    with open_cache(path) as cache, Results(results) as store:
        old = store._run("SELECT DISTINCT fingerprint FROM heads WHERE task = 'sst2'")[0][0]
        store._run("PRAGMA foreign_keys = OFF")
        store._run("UPDATE caches SET class_names = ? WHERE fingerprint = ?", (json.dumps(["negative", ATTACK]), old))
        reseal(store)
        for table in ("caches", "heads", "baselines", "labels"):
            store._run(f"UPDATE {table} SET fingerprint = ? WHERE fingerprint = ?", (cache.fingerprint, old))
            reseal(store)
    return results, folder / "cache"


@pytest.fixture(scope="module")
def page(swept, tmp_path_factory):
    results, cache = swept
    out = tmp_path_factory.mktemp("page") / "report.html"
    done = call("--results", results, "--cache", cache, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["bytes"] == out.stat().st_size
    assert (document["heads"], document["settings"]) == (36, ["rte", "sst2"])
    assert document["verdict"] == "effi_kan beats mlp on rte, sst2."
    found = {(one["setting"], one["first"], one["second"]) for one in document["differences"] if one["word"] == "found"}
    assert found >= {("rte", "effi_kan", "mlp"), ("sst2", "effi_kan", "mlp"), ("sst2", "effi_kan", "linear")}
    return out


def test_a_real_difference_is_in_the_headline(page):
    text = page.read_text()
    assert "<h1>effi_kan beats mlp on rte, sst2.</h1>" in text
    assert "Found: beats linear: effi_kan +" in text
    for word in ("majority", "How it was made", "--seeds 0:6", "Calibration", "Confusion", "disagree", "Pareto"):
        assert word in text


def test_texts_from_data_are_escaped(page):
    text = page.read_text()
    assert ATTACK not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &lt;b&gt;row" in text
    assert text.count("<script>") == 1


def test_nothing_is_fetched(page):
    text = page.read_text()
    assert "default-src 'none'" in text
    found = re.findall(r"(?:src|href|url|@import)\s*[=(]\s*[\"']?([^\"') >]+)", text)
    assert all(one.startswith(("#", "data:")) for one in found), found


def test_hostile_names_are_text_everywhere(tmp_path):
    """Task, encoder, source, options, versions and family: all of them are somebody else's strings."""
    results = made_up_results(tmp_path / "r.sqlite", rows={"rte": 40}, families=("linear", "mlp"), seeds=2, epochs=2)
    with Results(results) as store:
        for column in ("task", "encoder", "source", "device"):
            store._run(f"UPDATE heads SET {column} = ?", (f"{column}{ATTACK}",))
        store._run("UPDATE heads SET head = ? WHERE head = 'mlp'", (f"</svg>{ATTACK}",))
        store._run("UPDATE heads SET versions = ?", (json.dumps({ATTACK: ATTACK}),))
        reseal(store)
    write_report(results, tmp_path / "r.html", cache=tmp_path)
    assert ATTACK not in (tmp_path / "r.html").read_text()


def test_an_empty_results_file(tmp_path):
    Results(tmp_path / "r.sqlite", create=True).close()
    done = call("--results", tmp_path / "r.sqlite", "--out", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    assert "there are no heads" in done.stdout
    assert "holds no heads; train some" in (tmp_path / "r.html").read_text()


def test_no_results_file_is_one_line(tmp_path):
    done = call("--results", tmp_path / "none.sqlite", "--out", tmp_path / "r.html")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "expected a results database, found nothing" in done.stderr
    assert not (tmp_path / "r.html").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    Results(tmp_path / "r.sqlite", create=True).close()
    (tmp_path / "taken").mkdir()
    done = call("--results", tmp_path / "r.sqlite", "--out", tmp_path / "taken")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "--out" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.sqlite", "taken"]


def test_a_page_is_not_lost_to_a_slip_and_no_other_file_is_written_over(tmp_path):
    results = made_up_results(tmp_path / "r.sqlite", rows={"rte": 50}, families=("mlp", "effi_kan"), seeds=3, epochs=2)
    out, before = tmp_path / "r.html", results.read_bytes()
    assert call("--results", results, "--out", out).exit_code == 0
    page = out.read_bytes()
    for arguments, said in (
        (("--task", "nope"), "nope"),
        (("--protocol", "published"), "found none"),
        (("--baseline", "fast_kan"), "unknown baseline in"),
        (("--margin", "-1"), "--margin: expected a number of points of at least 0, found -1"),
        (("--out", results), "found another file; name another with --out"),
    ):
        done = call("--results", results, "--out", out, *arguments)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
        assert said in done.stderr
    assert (out.read_bytes(), results.read_bytes()) == (page, before)


def test_every_kind_of_task_stands_in_one_report_and_its_commands_find_every_head(tmp_path):
    """GLUE, own classes, own regression and kan on few inputs; what the page prints trains nothing again."""
    import shlex

    import pipeline
    from tests.helpers.synthetic_caches import write_cache as write_features

    cache, results = tmp_path / "my caches", tmp_path / "results.sqlite"
    for task, kind in (("cola", "sum"), ("stsb", "number"), ("colours", "three"), ("prices", "number")):
        write_features(cache, task, kind=kind, rows={"train": 80, "validation": 40}, width=6)
    common = {"encoder": "tiny", "cache": cache, "results": results, "device": "cpu", "epochs": 2}
    tasks = ["cola", "stsb", "colours", "prices"]
    pipeline.sweep(task=tasks, head=["mlp", "linear", "effi_kan"], seeds="0:3", hidden=[[3]], **common)
    pipeline.sweep(task=tasks[:2], head=["kan"], seeds="0,2,5", hidden=[[2]], **common)
    pipeline.sweep(task=["cola"], head=["effi_kan"], seeds="1", hidden=[[4, 3]], grid=[2, 4], grid_epochs=[1, 1],
                   protocol=["published"], **(common | {"epochs": 2}))  # fmt: skip
    with Results(results) as store:  # one task's outputs are damaged: the others stand
        store._run("DELETE FROM outputs WHERE head_id IN (SELECT id FROM heads WHERE task = 'colours')")
    done = call("--results", results, "--cache", cache, "--out", tmp_path / "r.html", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    metrics = {"cola · clean": "matthews_correlation", "stsb · clean": "pearson_spearmanr", "prices · clean": "r2"}
    for label, metric in metrics.items():
        assert metric in document["sentences"][label], document["sentences"]
        assert any(one["setting"] == label and one["low"] is not None for one in document["differences"])
    assert any(reason.startswith("colours · clean is left out:") for reason in document["cannot"])
    commands = provenance(gather(results, cache), cache).commands
    assert len(commands) == 4
    stored = 0
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == ["python", "fit_heads.py", "sweep"]
        again = CliRunner().invoke(fit_heads.main, [*words[2:], "--json"])
        assert again.exit_code == 0, again.output
        counts = json.loads(again.stdout)
        assert counts["trained"] == 0, command
        stored += counts["skipped"]
    with Results(results) as store:
        assert stored == len(store.heads())


def test_what_is_below_guessing_beats_nobody(tmp_path):
    results = made_up_results(
        tmp_path / "r.sqlite", rows={"sst2": 872}, families=("mlp", "effi_kan"), gain={"mlp": -1.5, "effi_kan": -0.9}
    )
    said = verdict_of(results)
    assert "neither beats guessing" in said.headline
    assert "beats mlp" not in said.headline + said.sentences[0][1]


def test_selection_that_flatters_and_grids_that_are_left_are_warned_of(tmp_path):
    results = made_up_results(tmp_path / "r.sqlite", rows={"rte": 60}, families=("mlp", "effi_kan"), seeds=3, epochs=2)
    coverage = json.dumps([{"outside": 0.1, "dead": 0.0}, {"outside": 0.9, "dead": 0.7}])
    with Results(results) as store:
        store._run("UPDATE metrics SET value = 1 WHERE split = 'selection'")
        store._run("UPDATE heads SET coverage = ?, still_improving = 1 WHERE head = 'effi_kan'", (coverage,))
        reseal(store)
    reasons = " ".join(verdict_of(results).cannot)
    assert re.search(r"rte: selection rows score \d+\.\d points above the reported ones", reasons)
    assert "effi_kan 90% outside, 70% of units dead" in reasons
    assert "still improving at their last epoch: effi_kan." in reasons
    assert ">90%</td>" in render(results)


def test_one_family(tmp_path):
    results = made_up_results(tmp_path / "r.sqlite", rows={"rte": 50}, families=("effi_kan",), seeds=3, epochs=2)
    found = verdict_of(results)
    assert found.headline == "No comparison: effi_kan is the only family."
    assert any("One family has nothing to be compared with" in reason for reason in found.cannot)
    assert "nothing to compare" in render(results)


def test_one_seed(tmp_path):
    results = made_up_results(tmp_path / "r.sqlite", rows={"rte": 50}, seeds=1, epochs=1)
    found = verdict_of(results)
    assert found.headline.startswith("Open: these heads differ from mlp by up to")
    assert any(reason.startswith("One seed says nothing about other seeds") for reason in found.cannot)
    assert "No learning curves" in render(results)


def test_different_encoders_are_said_and_not_ranked_together(tmp_path):
    results = made_up_results(
        tmp_path / "r.sqlite", rows={"rte": 50, "sst2": 60}, families=("linear", "mlp"), seeds=5, epochs=2,
        encoder={"rte": "minilm", "sst2": "bert"}.get,
    )  # fmt: skip
    found = gather(results, tmp_path)
    assert set(found.rankings) == {"minilm · clean", "bert · clean"}
    assert [place.label for place in found.settings] == ["rte · minilm", "sst2 · bert"]
    assert any("different encoders (rte: minilm; sst2: bert)" in reason for reason in conclude(found).cannot)


def test_no_difference_says_how_large_one_could_be(tmp_path):
    results = made_up_results(tmp_path / "r.sqlite", rows={"rte": 277}, families=("mlp", "effi_kan"), epochs=2)
    found = gather(results, tmp_path)
    one = found.contrasts.planned[0].estimate
    said = conclude(found)
    bound = 100 * max(-one.low, one.high)
    assert said.headline == (
        f"No KAN head was found to differ from mlp on rte; differences up to {bound:.1f} points remain possible."
    )
    assert (
        f"rte (277 rows) shows a true difference with 80% probability only from {100 * one.detectable:.1f} points on."
        in said.cannot
    )
    wide = gather(results, tmp_path, margin=bound + 0.1)
    assert conclude(wide).headline == f"Every KAN head is within {bound + 0.1:g} points of mlp on rte."
    assert "Equivalent to mlp within" in conclude(wide).sentences[0][1]


def test_an_interval_that_excludes_nothing_is_no_verdict(tmp_path):
    results = made_up_results(tmp_path / "r.sqlite", rows={"cola": 12}, seeds=2, epochs=2)
    said = verdict_of(results)
    assert said.headline == "Open: with so few seeds or rows, no KAN head can be told from mlp on cola."
    assert "too few seeds or rows to tell" in said.sentences[0][1]
    assert any(reason.startswith("Only 2 seeds") for reason in said.cannot)


def test_without_labels_nothing_is_said_of_new_rows(tmp_path):
    results = made_up_results(
        tmp_path / "r.sqlite", rows={"rte": 80}, families=("mlp", "effi_kan"), gain={"effi_kan": 2}, labels=False
    )
    found = gather(results, tmp_path)
    assert found.contrasts.planned == []
    assert any("rte is left out: its labels are not in the results" in reason for reason in conclude(found).cannot)
    assert "nothing can be said row by row" in render(results)


def test_published_heads_are_marked_everywhere(tmp_path):
    results = made_up_results(tmp_path / "r.sqlite", rows={"rte": 60}, seeds=3, protocol="published", epochs=2)
    found = verdict_of(results)
    assert "optimistic" in found.headline
    assert all("optimistic" in label for label, _ in found.sentences)
    assert any("are optimistic" in reason for reason in found.cannot)
    text = render(results)
    assert text.count('<span class="tag">optimistic</span>') == 5


def test_diverged_heads_are_counted(tmp_path):
    results = made_up_results(tmp_path / "r.sqlite", rows={"rte": 60}, families=("linear", "mlp"), seeds=4, epochs=2)
    with Results(results) as store:
        for table, key in (("metrics", "head_id"), ("outputs", "head_id"), ("curves", "head_id")):
            store._run(f"DELETE FROM {table} WHERE {key} IN (SELECT id FROM heads WHERE head = 'mlp' AND seed < 2)")
        store._run("UPDATE heads SET status = 'diverged', diverged_at = 3 WHERE head = 'mlp' AND seed < 2")
        reseal(store)
    assert any("2 of mlp" in reason for reason in verdict_of(results).cannot)
    with Results(results) as store:
        store._run("UPDATE heads SET status = 'diverged', diverged_at = 3")
        store._run("DELETE FROM metrics")
        reseal(store)
    assert verdict_of(results).headline == "Nothing can be concluded: every head diverged."
    assert "every head diverged" in render(results)


def test_a_family_stands_with_the_configuration_its_selection_rows_chose(tmp_path):
    results = made_up_results(tmp_path / "r.sqlite", rows={"rte": 60}, families=("linear", "mlp"), configurations=3,
                              seeds=3, epochs=2)  # fmt: skip
    with Results(results) as store:
        store._run("UPDATE metrics SET value = 0.1 WHERE split = 'selection'")
        reseal(store)
        chosen = "SELECT id FROM heads WHERE json_extract(config, '$.lr') = 0.002"
        store._run(f"UPDATE metrics SET value = 0.9 WHERE split = 'selection' AND head_id IN ({chosen})")
        reseal(store)
    found = gather(results, tmp_path)
    assert {line.config["lr"] for line in found.settings[0].chosen.values()} == {0.002}
    assert len(found.lines) == 6
    assert sum("--lr" in command for command in provenance(found).commands) == 2  # 2e-3 is the default


def test_regression_has_its_own_pictures(tmp_path):
    results = made_up_results(tmp_path / "r.sqlite", rows={"stsb": 80}, families=("linear", "mlp"), seeds=4, epochs=2)
    text = render(results)
    assert "Predictions on stsb" in text
    assert "Calibration on" not in text


def render(results):
    out = results.parent / "r.html"
    write_report(results, out, cache=results.parent / "no_cache")
    return out.read_text()


def test_from_a_sweep_to_learned_functions_of_every_family(tmp_path):
    import pipeline
    from pipeline.heads.families import FAMILIES
    from tests.helpers.synthetic_caches import write_cache as write_features

    write_features(tmp_path / "cache", rows={"train": 60, "validation": 40}, width=8)
    results = tmp_path / "runs/results.sqlite"
    families = [name for name in FAMILIES if name != "kan"]
    pipeline.sweep(task=["rte"], head=families, encoder="tiny", seeds="0:2", epochs=2, hidden=[[4]],
                   cache=tmp_path / "cache", results=results, device="cpu")  # fmt: skip
    write_report(results, tmp_path / "r.html", cache=tmp_path / "cache")
    text = (tmp_path / "r.html").read_text()
    learners = [name for name in families if name.endswith("_kan") or name == "bspline_mlp"]
    assert [name for name in learners if f'aria-label="Learned functions of {name}"' in text] == learners
    assert "--epochs=2" in text
    assert "--hidden=4" in text


@pytest.mark.parametrize(("family", "options"), [("effi_kan", {"spline_scaler": True}), ("wav_kan", {"base": "silu"})])
def test_learned_functions_are_those_of_the_layer(tmp_path, family, options):
    """The sum of all edges' functions is what the first layer computes (no layer norm, no bias)."""
    import torch

    import pipeline
    from pipeline.heads.forward import layer_forward, layer_tensors
    from pipeline.report import activations
    from tests.helpers.synthetic_caches import write_cache as write_features

    write_features(tmp_path / "cache", rows={"train": 60, "validation": 40}, width=3)
    results = tmp_path / "runs/results.sqlite"
    done = pipeline.sweep(task=["rte"], head=[family], encoder="tiny", epochs=2, hidden=[[2]], **options,
                          cache=tmp_path / "cache", results=results, device="cpu")  # fmt: skip
    learned = activations.learned_functions(tmp_path / "runs/results.sqlite", done.ids[0], "rte")
    assert sorted(learned.names) == [f"{i} → {o}" for i in range(3) for o in range(2)]
    head = pipeline.load_head(done.ids[0], results=results)
    tensors = {name: one.unsqueeze(0) for name, one in layer_tensors(head.tensors, 0).items()}
    x = torch.from_numpy(learned.grid)[None, :, None].expand(1, -1, 3)
    whole = layer_forward(head.network.layers[0], x, tensors)[0].detach().numpy()
    for unit in range(2):
        edges = [curve for name, curve in zip(learned.names, learned.curves, strict=True) if name.endswith(f"→ {unit}")]
        np.testing.assert_allclose(np.sum(edges, 0), whole[:, unit] - whole[:, unit].mean(), atol=1e-5)


def test_a_kans_functions_are_those_of_pykans_first_layer(tmp_path):
    import pipeline
    from pipeline.fit.kan_forward import expand, layer_of
    from pipeline.report import activations
    from tests.helpers.synthetic_caches import write_cache as write_features

    write_features(tmp_path / "cache", rows={"train": 60, "validation": 40}, width=3)
    results = tmp_path / "runs/results.sqlite"
    done = pipeline.sweep(task=["rte"], head=["kan"], encoder="tiny", epochs=2, hidden=[[2]],
                          cache=tmp_path / "cache", results=results, device="cpu")  # fmt: skip
    learned = activations.learned_functions(tmp_path / "runs/results.sqlite", done.ids[0], "rte")
    assert sorted(learned.names) == [f"{i} → {o}" for i in range(3) for o in range(2)]
    tensors = pipeline.load_head(done.ids[0], results=results).tensors
    layer = layer_of(tensors, 0)
    basis = expand(torch.from_numpy(learned.grid).repeat(3, 1), layer)
    for name, curve in zip(learned.names, learned.curves, strict=True):
        i, o = map(int, name.split(" → "))
        expected = layer["scale_sp"][i, o] * (layer["coef"][i, o] @ basis[i, :-1])
        expected = layer["mask"][i, o] * (expected + layer["scale_base"][i, o] * basis[i, -1])
        np.testing.assert_allclose(curve, (expected - expected.mean()).numpy(), atol=1e-5)


def test_a_hundred_heads_or_a_thousand_cost_about_the_same_page(tmp_path):
    rows = {"rte": 40}
    small = made_up_results(tmp_path / "a.sqlite", rows=rows, families=("linear", "mlp"), seeds=100, epochs=2)
    large = made_up_results(tmp_path / "b.sqlite", rows=rows, families=("linear", "mlp"), seeds=500, epochs=2)
    assert len(render(large)) < 1.2 * len(render(small))


def test_the_projects_own_verdict_is_made_of_what_the_report_finds(swept, tmp_path):
    from xml.etree import ElementTree

    from benchmarks.verdict import write_page

    results, _ = swept
    said = write_page(results, tmp_path / "verdict.md")
    text = (tmp_path / "verdict.md").read_text()
    assert f"**{said.headline}**" in text
    assert all(sentence in text for _, sentence in said.sentences)
    findings = gather(results, tmp_path)
    line = findings.settings[0].chosen["mlp"]
    assert f"{line.mean:.3f} ± {line.std:.3f}" in text
    assert text.count("| **") >= 4  # effi_kan beats both baselines on both tasks
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures == ["verdict/means-mlp.svg"]
    assert ElementTree.parse(tmp_path / pictures[0]).getroot().tag.endswith("svg")
    assert str(write_page(results, tmp_path / "verdict.md")) == str(said)
    assert (tmp_path / "verdict.md").read_text() == text


needs_chromium = pytest.mark.skipif(
    not (chromium.CHROMIUM and chromium.DRIVER), reason="no Chromium with chromedriver (Debian: chromium-driver)"
)


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


SHAPES = """return [...document.querySelectorAll('figure svg')].map(svg => [svg.getAttribute('aria-label'),
  svg.getBoundingClientRect().width, svg.getBoundingClientRect().height,
  svg.querySelectorAll('path, circle, rect').length])"""
OUTSIDE = """return [...document.querySelectorAll('figure svg')].flatMap(svg => {
  const box = svg.closest('figure').getBoundingClientRect();
  return [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()])
    .filter(([, r]) => r.left < box.left - 1 || r.right > box.right + 1).map(([t]) => t)})"""


@needs_chromium
@pytest.mark.parametrize(("width", "height", "phone"), [(1280, 900, False), (768, 1024, True), (390, 844, True)])
def test_in_a_browser(page, window, width, height, phone):
    window.resize(width, height, phone=phone)
    window.log("performance")
    window.get(page.as_uri())
    assert window.log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in window.log("performance")]
    urls = {one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith(("data:", "chrome"))} == {page.as_uri()}
    assert window.run("return document.documentElement.scrollWidth") <= width
    found = window.run(SHAPES)
    assert len(found) == 1 + 2 * 10  # a mean, and ten pictures a task; learned functions need heads
    for label, wide, high, shapes in found:
        assert min(wide, high) > 60, label
        assert shapes > 5, label
    assert window.run(OUTSIDE) == []
    # What is drawn is there to be seen: ink of several colours in every figure.
    picture = Image.open(io.BytesIO(window.screenshot(whole=True))).convert("RGB")
    boxes = window.run(
        "return [...document.querySelectorAll('figure:has(svg)')].map(f => { const r = f.getBoundingClientRect();"
        "return [r.left + scrollX, r.top + scrollY, r.right + scrollX, r.bottom + scrollY] })"
    )
    for (label, *_), box in zip(found, boxes, strict=True):
        counts = picture.crop([round(edge) for edge in box]).getcolors(1 << 24)
        assert len(counts) > 20, label
        assert max(counts)[0] < 0.995 * sum(count for count, _ in counts), label


@needs_chromium
def test_on_paper_ink_is_dark_whatever_the_screen_prefers(page, window):
    window.resize(794, 1123)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    colours = "return ['color', 'backgroundColor'].map(what => getComputedStyle(document.body)[what])"
    try:
        for media, ink_is_dark in (("print", True), ("screen", False)):
            window.devtools("Emulation.setEmulatedMedia", {"media": media, "features": dark})
            window.get(page.as_uri())
            ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in window.run(colours))
            assert abs(ink - paper) > 400
            assert (ink < paper) is ink_is_dark
            assert window.run("return document.documentElement.scrollWidth") <= 794
    finally:
        window.devtools("Emulation.setEmulatedMedia", {"media": "", "features": []})


@needs_chromium
def test_the_attack_shows_as_text_and_tables_sort_and_filter(page, window):
    window.resize(1280, 900)
    window.get(page.as_uri())
    assert ATTACK in window.run("return document.querySelector('#rows').textContent")
    assert window.run("return document.scripts.length") == 1
    column = "[...document.querySelectorAll('#lines tbody tr')].map(r => parseFloat(r.cells[3].textContent))"
    press = "[...document.querySelectorAll('#lines th button')].find(b => b.textContent === 'mean').click();"
    rising = window.run(press + "return " + column)
    assert rising == sorted(rising)
    assert window.run(press + "return " + column) == rising[::-1]
    shown = window.run(
        "const input = document.querySelector('[data-filter=lines]'); input.value = 'SST2 effi';"
        "input.dispatchEvent(new Event('input'));"
        "return [...document.querySelectorAll('#lines tbody tr')].filter(r => !r.hidden).map(r => r.textContent)"
    )
    assert len(shown) == 1
    assert "effi_kan" in shown[0]
