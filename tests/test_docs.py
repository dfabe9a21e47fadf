"""Generated pages: what docs/families.md says is what heads cost."""

import pytest

from docs.generated import write_or_check
from docs.make_families import HERE, SPLINE_FLOPS, page
from pipeline.heads.cost import forward_flops, parameters
from pipeline.heads.families import FAMILIES, PACKABLE, build_network
from pipeline.heads.network import BASES, NetworkSpec
from pipeline.heads.resolve import resolve


def test_every_family_stands_in_the_page_with_a_picture():
    for family in FAMILIES:
        assert (HERE / "families" / f"{family}.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert (HERE / "families.md").read_text(encoding="utf-8") == page(), "run make docs"


@pytest.mark.parametrize("family", [family for family in PACKABLE if not PACKABLE[family].stacks])
@pytest.mark.parametrize(
    ("hidden", "outputs", "grid", "order", "centres"), [(9, 2, 5, 3, 8), (4, 3, 1, 1, 2), (7, 1, 8, 5, 5)]
)
def test_the_pages_formulas_are_the_counted_costs(family, hidden, outputs, grid, order, centres):
    """Of a layer behind the first, where every basis is at work."""
    options = {"hidden": (hidden,), "grid": grid, "order": order, "centres": centres, "activation": None}
    config = resolve(family, seed=0, features="pooled", options=options)
    layer = build_network(config, 13, outputs).layers[-1]
    symbols = {"D": layer.inputs, "O": outputs, "G": grid, "k": order, "K": centres, "M": 0}
    if family == "mlp":
        symbols["M"] = BASES[config.activation].flops(layer.grid)
    symbols["S"] = eval(SPLINE_FLOPS, {}, symbols)
    assert eval(FAMILIES[family].parameters, {}, symbols) == parameters(NetworkSpec((layer,)))
    assert eval(FAMILIES[family].flops, {}, symbols) == forward_flops(NetworkSpec((layer,)))


@pytest.mark.parametrize(("inputs", "outputs", "grid", "order"), [(8, 2, 5, 3), (3, 1, 1, 1), (16, 4, 7, 5)])
def test_the_pages_formulas_of_pykans_network(inputs, outputs, grid, order):
    options = {"hidden": (), "grid": grid, "order": order}
    network = build_network(resolve("kan", seed=0, features="reduced", options=options), inputs, outputs)
    symbols = {"D": inputs, "O": outputs, "G": grid, "k": order}
    assert eval(FAMILIES["kan"].parameters, {}, symbols) == parameters(network)
    assert eval(FAMILIES["kan"].flops, {}, symbols) == forward_flops(network)


def test_a_page_that_is_out_of_date_is_named_and_written(tmp_path, capsys):
    page = tmp_path / "new" / "page.md"
    assert write_or_check({page: "a"}, check=True) == 1
    assert capsys.readouterr().err == f"{page}: out of date; run make docs\n"
    assert not page.exists()
    assert write_or_check({page: "a"}, check=False) == 0
    assert page.read_text() == "a"
    assert write_or_check({page: "a"}, check=True) == 0
    assert write_or_check({page: "b"}, check=True) == 1
