"""Training a pack: the same head alone or in company, what it learns, which epoch is chosen, what diverges."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.fit import predict
from pipeline.fit.predict import FirstLayer, outputs
from pipeline.fit.split import replicate
from pipeline.fit.train import train_pack
from pipeline.heads.families import FAMILIES, build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.initialization import stack, start, starts
from pipeline.heads.resolve import resolve
from pipeline.metrics import classification_metrics, metric_value, regression_metrics
from tests.helpers.synthetic_caches import fit_data

CPU = torch.device("cpu")


def config(head, protocol="clean", seed=0, **options):
    defaults = {"epochs": 3, "batch_size": 16, "hidden": (8,)}
    return resolve(head, seed=seed, features="pooled", protocol=protocol, options=defaults | options)


def train(data, *configs):
    return train_pack(configs, data, CPU)


def logits(outcome, features):
    x = torch.from_numpy(np.ascontiguousarray(features)).unsqueeze(0)
    return network_forward(outcome.network, x, stack([outcome.tensors]))[0].numpy()


def equal_tensors(one, two):
    return all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize("protocol", ["clean", "published"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_in_a_pack_is_the_head_alone(family, protocol):
    data = fit_data("three", rows=120)
    configs = [
        config(family, protocol, seed=(5 * place) % 4, lr=lr, weight_decay=0.01 * place, clip=clip)
        for place, (lr, clip) in enumerate(zip(np.geomspace(1e-4, 3e-2, 12), (1.0, 0.1, np.inf) * 4, strict=True))
    ]
    pack = train(data, *configs)
    for place in (0, 7, 11):
        (alone,) = train(data, configs[place])
        ours, theirs = pack[place].outputs["validation"], alone.outputs["validation"]
        assert pack[place].config == configs[place]
        assert pack[place].epoch == alone.epoch
        assert np.abs(ours - theirs).max() <= 1e-3 * np.ptp(theirs)
        np.testing.assert_allclose(pack[place].curve, alone.curve, rtol=1e-3, atol=1e-4)
    spread = [outcome.outputs["validation"] for outcome in pack]
    assert all(np.abs(one - spread[0]).max() > 1e-3 for one in spread[1:])


def test_the_order_of_heads_does_not_matter():
    data = fit_data("sum")
    configs = [config("effi_kan", seed=seed, lr=lr) for seed in (2, 0, 1) for lr in (1e-3, 1e-2)]
    forth, back = train(data, *configs), train(data, *configs[::-1])[::-1]
    for one, two in zip(forth, back, strict=True):
        assert one.config == two.config
        assert one.epoch == two.epoch
        np.testing.assert_allclose(one.outputs["validation"], two.outputs["validation"], rtol=1e-3, atol=1e-4)


def test_the_whole_recipe_equals_a_plain_torch_loop():
    data, settings = fit_data("three", rows=90), config("effi_kan", "published", seed=3, epochs=4, batch_size=16)
    (found,) = train(data, settings)
    network = build_network(settings, data.inputs, data.outputs)
    leaves = {name: tensor.unsqueeze(0).requires_grad_() for name, tensor in start(settings, network).items()}
    optimiser = torch.optim.AdamW(leaves.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    x, y = torch.from_numpy(data.features["train"]), data.targets
    one, step, steps, losses = replicate(data, 3, "published"), 0, 4 * 6, []
    for epoch in range(4):
        total = 0.0
        for batch in torch.from_numpy(one.order(epoch)).split(16):
            loss = functional.cross_entropy(network_forward(network, x[batch].unsqueeze(0), leaves)[0], y[batch])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(leaves.values(), settings.clip)
            optimiser.param_groups[0]["lr"] = settings.lr * (1 - step / steps)
            optimiser.step()
            step += 1
            total += loss.item() * len(batch)
        losses.append(total / 90)
        if epoch + 1 == found.epoch:
            for name, leaf in leaves.items():
                torch.testing.assert_close(found.tensors[name], leaf.detach()[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([row[0] for row in found.curve], losses, rtol=1e-5)


@pytest.mark.parametrize("kind", ["sum", "three", "number"])
@pytest.mark.parametrize("protocol", ["clean", "published"])
def test_the_chosen_epoch_and_every_metric_follow_from_the_curve_and_the_tensors(kind, protocol):
    data = fit_data(kind, rows=120)
    heads = train(data, *(config("effi_kan", protocol, seed=seed, epochs=6, lr=2e-2) for seed in range(6)))
    ties = 0
    for outcome in heads:
        _, losses, scores = map(list, zip(*outcome.curve, strict=True))
        best = max(range(6), key=lambda epoch: (scores[epoch], -losses[epoch], -epoch))
        ties += scores.count(max(scores)) > 1
        assert outcome.epoch == best + 1
        held = replicate(data, outcome.config.seed, protocol).selection
        split, rows = ("train", held) if protocol == "clean" else ("validation", slice(None))
        for where, x, y in (
            (outcome.selection, data.features[split][rows], data.labels[split][rows]),
            (outcome.metrics["validation"], data.features["validation"], data.labels["validation"]),
        ):
            values = logits(outcome, x)
            if kind == "number":
                values = values * data.target_scale[1] + data.target_scale[0]
                expected = regression_metrics(values.T, y)
            else:
                expected = classification_metrics(values.argmax(1)[None], y, data.outputs)
            assert where == {name: pytest.approx(float(value[0]), abs=1e-4) for name, value in expected.items()}
        assert metric_value(outcome.selection, data.task.main_metric) == pytest.approx(scores[best], abs=1e-9)
        assert set(outcome.metrics) == {"validation"}
        np.testing.assert_allclose(outcome.outputs["validation"], values, rtol=1e-4, atol=1e-4)
    assert ties or kind == "number"  # a dozen selection rows: equal scores occur, and the loss decides


def test_where_nothing_differs_the_first_epoch_is_chosen():
    (outcome,) = train(fit_data(), config("mlp", lr=1e-30, weight_decay=0, epochs=4))
    assert len({row[1:] for row in outcome.curve}) == 1
    assert outcome.epoch == 1


def test_the_clean_protocol_does_not_look_at_the_validation_split():
    data = fit_data("sum")
    rng = np.random.default_rng(9)
    labels = data.labels | {"validation": rng.permutation(data.labels["validation"])}
    features = data.features | {"validation": rng.permutation(data.features["validation"])}
    configs = [config("effi_kan", seed=seed, epochs=6, lr=1e-2) for seed in range(4)]
    before, after = train(data, *configs), train(replace(data, labels=labels, features=features), *configs)
    for one, two in zip(before, after, strict=True):
        assert one.epoch == two.epoch
        assert one.selection == two.selection
        assert one.curve == two.curve
        assert equal_tensors(one, two)
        assert one.metrics != two.metrics


def test_the_held_out_tenth_is_not_trained_on():
    data = fit_data("sum")
    held = replicate(data, 0, "clean").selection
    labels, features = data.labels["train"].copy(), data.features["train"].copy()
    features[held] = 7.0
    changed = replace(data, features=data.features | {"train": features}, labels=data.labels | {"train": labels})
    (one,), (two,) = (train(d, config("mlp", epochs=1)) for d in (data, changed))
    assert one.curve[0][0] == two.curve[0][0]
    assert equal_tensors(one, two)
    assert one.selection != two.selection


def test_the_published_protocol_selects_on_the_validation_split():
    data = fit_data("sum")
    flipped = replace(data, labels=data.labels | {"validation": 1 - data.labels["validation"]})
    settings = [config("effi_kan", "published", seed=seed, epochs=8, lr=2e-2) for seed in range(4)]
    before, after = train(data, *settings), train(flipped, *settings)
    for one, two in zip(before, after, strict=True):
        assert one.selection == one.metrics["validation"]
        assert [row[0] for row in one.curve] == [row[0] for row in two.curve]
        assert [row[2] for row in one.curve] == pytest.approx([1 - row[2] for row in two.curve])
    assert [one.epoch for one in before] != [two.epoch for two in after]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_a_plane(family):
    data = fit_data("sum", rows=400)
    # A step of 0.02 in the coefficient of x^5 moves an output by 5 at x = 3.
    (outcome,) = train(data, config(family, epochs=10, batch_size=32, lr=2e-3 if family == "gr_kan" else 2e-2))
    majority = max(np.bincount(data.labels["validation"])) / 100
    assert outcome.metrics["validation"]["accuracy"] > majority + 0.15
    first, last = outcome.curve[0][0], outcome.curve[-1][0]
    assert last < 0.7 * first


# Not faster_kan: with nothing beside its layer norm it sees of two features only which is larger.
@pytest.mark.parametrize("family", ["linear", "mlp", "effi_kan", "fast_kan"])
def test_a_head_with_a_hidden_layer_learns_what_a_linear_one_cannot(family):
    data = fit_data("xor", rows=600, width=2)
    (outcome,) = train(data, config(family, epochs=20, batch_size=32, lr=2e-2, hidden=(16,)))
    accuracy = outcome.metrics["validation"]["accuracy"]
    assert accuracy < 0.65 if family == "linear" else accuracy > 0.85


def test_regression_learns_in_the_tasks_own_units():
    data = fit_data("number", rows=400)
    (outcome,) = train(data, config("effi_kan", epochs=20, batch_size=32, lr=2e-2))
    found = outcome.metrics["validation"]
    assert set(found) == {"pearson", "spearmanr", "rmse", "r2"}
    assert found["pearson"] > 0.9
    assert found["rmse"] < 0.5 * data.labels["validation"].std()
    assert outcome.outputs["validation"].shape == (100, 1)
    assert outcome.outputs["validation"].mean() == pytest.approx(data.labels["validation"].mean(), abs=3)


@pytest.mark.parametrize("family", ["mlp", "effi_kan", "fast_kan"])
def test_a_head_that_diverges_is_recorded_and_its_neighbours_numbers_stay(family):
    data = fit_data("sum")
    configs = [config(family, seed=seed, lr=lr) for seed in (0, 1) for lr in (1e-3, 1e-2)]
    sound = train(data, *configs)
    configs[1] = config(family, seed=0, lr=1e30)
    hurt = train(data, *configs)
    (alone,) = train(data, configs[1])
    steps = 3 * -(-len(replicate(data, 0, "clean").train) // 16)
    assert 0 < hurt[1].diverged_at < steps
    assert hurt[1].diverged_at == alone.diverged_at
    assert hurt[1].metrics == hurt[1].selection == hurt[1].outputs == {}
    assert all(np.isfinite(row).all() for row in hurt[1].curve)
    for place in (0, 2, 3):
        assert hurt[place].diverged_at is None
        assert hurt[place].metrics == sound[place].metrics
        assert hurt[place].curve == sound[place].curve
        assert equal_tensors(hurt[place], sound[place])


def test_an_mlp_at_an_absurd_rate_diverges_at_its_second_step():
    (outcome,) = train(fit_data("sum"), config("mlp", lr=1e30))
    assert outcome.diverged_at == 1


def test_a_minibatch_may_be_larger_than_the_split_or_leave_one_row():
    data = fit_data("sum", rows=110)
    left = len(replicate(data, 0, "clean").train)
    for size in (left - 1, left, 4 * left, 1):
        (outcome,) = train(data, config("linear", batch_size=size, epochs=2))
        assert len(outcome.curve) == 2
        assert np.isfinite(outcome.curve).all()


def test_on_epoch_is_told_of_every_epoch():
    told = []
    train_pack([config("linear", epochs=5)], fit_data(), CPU, lambda: told.append(1))
    assert len(told) == 5


def test_training_leaves_the_global_generators_alone():
    torch.manual_seed(5)
    before, numpys = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    one = train(fit_data(), config("effi_kan", "published"))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)
    torch.manual_seed(6)
    assert equal_tensors(one[0], train(fit_data(), config("effi_kan", "published"))[0])


@pytest.mark.parametrize("family", ["effi_kan", "fast_kan"])
def test_heads_scored_on_rows_of_their_own_answer_as_each_alone(family, monkeypatch):
    config = resolve(family, seed=0, features="mean", options={"hidden": [6]})
    network = build_network(config, 5, 3)
    tensors = starts([replace(config, seed=seed) for seed in range(4)], network, torch.device("cpu"))
    source = FirstLayer(network, torch.randn(20, 5).numpy(), torch.device("cpu"))
    rows = torch.randint(20, (4, 7))
    expected = [outputs(network, {n: t[h : h + 1] for n, t in tensors.items()}, source, rows[h]) for h in range(4)]
    # Three heads at a time.
    monkeypatch.setitem(predict.CHUNK_NUMBERS, "cpu", 3 * 7 * (network.layers[0].features + 6 * 9))
    torch.testing.assert_close(outputs(network, tensors, source, rows), torch.cat(expected))
