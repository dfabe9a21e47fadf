"""What a sweep is asked for: seeds, products, specifications in TOML."""

import pytest

from pipeline.errors import CacheError, ConfigError, KanglueError, UnknownNameError
from pipeline.sweep.run import plan
from pipeline.sweep.spec import parse_seeds, product_from, read_spec
from tests.helpers.synthetic_caches import write_cache


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0:10", tuple(range(10))), ("3", (3,)), ("1,4,9", (1, 4, 9)), ("0:3,7,9:11", (0, 1, 2, 7, 9, 10)),
        ("2,0:3,2", (2, 0, 1)), (5, (5,)), ([0, 2], (0, 2)), (range(3), (0, 1, 2)), (" 1 , 2 ", (1, 2)),
    ],
)  # fmt: skip
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "3:", ":3", "5:5", "5:3", "-1", "0:-1", "1:2:3", "1,,2", "1.5", -1, [0, "a"]]
)
def test_bad_seeds_are_one_line_that_shows_good_ones(text):
    with pytest.raises(ConfigError, match=r"`seeds`: expected .* such as 0:10 or 1,4,9, found"):
        parse_seeds(text)


def write(tmp_path, text):
    path = tmp_path / "spec.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_specification_of_two_products(tmp_path):
    path = write(
        tmp_path,
        """
        task = ["rte", "cola"]
        encoder = "minilm"
        seeds = "0:3"
        [[sweep]]
        head = "linear"
        lr = [1e-3, 1e-2]
        [[sweep]]
        head = ["effi_kan", "mlp"]
        hidden = [[64], [32, 16]]
        grid-range = [-2, 2]
        seeds = [7]
        """,
    )
    one, two = read_spec(path)
    assert one.task == two.task == ("rte", "cola")
    assert one.encoder == ("minilm",)
    assert (one.head, one.seeds, one.options) == (("linear",), (0, 1, 2), {"lr": (1e-3, 1e-2)})
    assert (two.head, two.seeds) == (("effi_kan", "mlp"), (7,))
    assert two.options == {"hidden": ((64,), (32, 16)), "grid_range": ((-2, 2),)}
    assert [choice for _, choice in one.combinations()] == [{"lr": 1e-3}, {"lr": 1e-2}]


@pytest.mark.parametrize(
    ("value", "values"),
    [
        (64, ((64,),)), ([64], ((64,),)), ((64, 32), ((64, 32),)), ([64, 32], ((64, 32),)), ([], ((),)),
        ("none", ((),)), (["none", "64"], ((), (64,))), (["64,32"], ((64, 32),)), ("64,32", ((64, 32),)),
        (["64, 32", [8]], ((64, 32), (8,))),
        ([[64], [32, 16]], ((64,), (32, 16))), ([(64,), (32, 16)], ((64,), (32, 16))), (((5,),), ((5,),)),
    ],
)  # fmt: skip
def test_widths_are_one_value_or_a_list_of_them(value, values):
    assert product_from({"task": "rte", "head": "mlp", "hidden": value}, "sweep").options == {"hidden": values}


def test_options_of_the_command_line_go_over_the_file(tmp_path):
    (product,) = read_spec(write(tmp_path, 'task = "rte"\nhead = "mlp"\nseeds = "0:9"'), {"seeds": "1", "lr": [0.1]})
    assert product.seeds == (1,)
    assert product.options == {"lr": (0.1,)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('task = "rte"\nhead = "mlp"\nlearning_rate = 1', "unknown key of .*spec.toml 'learning_rate'.*lr"),
        ('task = "rte"', "expected the key 'head', found task"),
        ("", "expected the key 'task', found none"),
        ('task = "rte"\nhead = []', "at least one head"),
        ('task = "rte"\nhead = "mlp"\nsweep = "all"', r"expected \[\[sweep\]\] tables"),
        ('task = "rte\nhead', "expected TOML"),
        ('task = "rte"\nhead = "mlp"\nseeds = "x"', "`seeds`: expected"),
        ('task = "rte"\nhead = "mlp"\nhidden = "64,x"', "`hidden`: expected numbers .* or none, found '64,x'"),
        ('task = "rte"\nhead = "mlp"\ngrid_range = ["-1,"]', "`grid_range`: expected numbers"),
    ],
)
def test_a_wrong_specification_is_one_line(tmp_path, text, message):
    with pytest.raises(KanglueError, match=message) as caught:
        read_spec(write(tmp_path, text))
    assert "\n" not in str(caught.value).removesuffix("\n")


def test_a_missing_or_unreadable_specification(tmp_path):
    with pytest.raises(ConfigError, match="expected a sweep specification"):
        read_spec(tmp_path / "none.toml")
    path = tmp_path / "spec.toml"
    path.write_bytes(b"task = '\xff'")
    with pytest.raises(ConfigError, match="expected TOML"):
        read_spec(path)


def planned(root, **table):
    return plan([product_from({"encoder": "tiny"} | table, "sweep")], root)


def test_a_plan_is_the_whole_product(tmp_path):
    for task in ("rte", "cola"):
        write_cache(tmp_path, task)
    heads = planned(
        tmp_path, task=["rte", "cola"], head=["linear", "effi_kan"], features=["pooled", "mean"], lr=[1e-3, 1e-2],
        seeds="0:3", protocol=["clean", "published"],
    )  # fmt: skip
    assert len(heads) == len({head.id for head in heads}) == 2 * 2 * 2 * 2 * 3 * 2
    assert {head.config.seed for head in heads} == {0, 1, 2}
    assert {head.cache.path.name for head in heads} == {"rte.h5", "cola.h5"}


def test_heads_that_are_the_same_head_count_once(tmp_path):
    write_cache(tmp_path)
    # `linear` has no grid, so two grids are one head; the default feature by name is the default feature.
    assert len(planned(tmp_path, task="rte", head=["linear", "effi_kan"], grid=[5, 8])) == 3
    first = product_from({"task": "rte", "encoder": "tiny", "head": "mlp"}, "sweep")
    second = product_from({"task": "rte", "encoder": "tiny", "head": "mlp", "features": "pooled", "lr": 2e-3}, "sweep")
    assert len(plan([first, second], tmp_path)) == 1


def test_a_plan_fails_before_anything_is_trained(tmp_path):
    write_cache(tmp_path)
    with pytest.raises(CacheError, match=r"embed.py run cola --encoder tiny"):
        planned(tmp_path, task=["rte", "cola"], head="mlp")
    with pytest.raises(UnknownNameError, match=r"unknown head 'nlp'.*effi_kan"):
        planned(tmp_path, task="rte", head=["mlp", "nlp"])
    with pytest.raises(UnknownNameError, match="unknown protocol"):
        planned(tmp_path, task="rte", head="mlp", protocol="dirty")
    with pytest.raises(UnknownNameError, match="unknown feature"):
        planned(tmp_path, task="rte", head="mlp", features="cls")
    with pytest.raises(UnknownNameError, match=r"unknown task 'nope'.*cola, sst2, mrpc"):
        plan([product_from({"task": "nope", "head": "mlp"}, "sweep")], tmp_path)


def test_imported_and_toy_caches_are_found_by_name(tmp_path):
    write_cache(tmp_path, "mine", "import")
    write_cache(tmp_path, "ring", "toy")
    heads = plan([product_from({"task": ["mine", "ring"], "head": "linear"}, "sweep")], tmp_path)
    assert [head.cache.path.parent.name for head in heads] == ["import", "toy"]


@pytest.mark.parametrize("content", [b"", b"not a cache", b"\x89HDF\r\n\x1a\n" + b"\0" * 500])
def test_a_file_that_is_no_cache(tmp_path, content):
    path = write_cache(tmp_path)
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"rte\.h5"):
        planned(tmp_path, task="rte", head="mlp")
