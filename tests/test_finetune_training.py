"""Encoder and head under transformers' Trainer: the recipe as written, accumulation, resumption, what is saved."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel, get_linear_schedule_with_warmup, set_seed

from pipeline.encode.encoders import resolve
from pipeline.errors import ConfigError, DeviceError, ResultsError
from pipeline.finetune import train as finetune_train
from pipeline.finetune.data import Collator, EpochOrder, TokenRows
from pipeline.finetune.model import EncoderWithHead
from pipeline.finetune.options import HEAD_DEFAULTS, encoder_training
from pipeline.finetune.train import build, outputs, save_encoder, tokenise, train
from pipeline.finetune.training import MARKER, FinetuneTrainer, Recipe, arguments, rate_groups, resume_point
from pipeline.fit.data import FitData, fit_scaling
from pipeline.fit.split import replicate
from pipeline.heads.resolve import resolve as resolve_head
from pipeline.sources import Row
from pipeline.tasks import own_task

CPU = torch.device("cpu")
ROWS, LENGTH = 48, 24


def texts(count, seed):
    """Rows whose class is whether the word `the` stands in them."""
    draw = np.random.default_rng(seed)
    rows, labels = [], []
    for _ in range(count):
        label = int(draw.integers(2))
        words = ["".join(draw.choice(list("abcdef"), 3)) for _ in range(draw.integers(2, 6))]
        if label:
            words[draw.integers(len(words))] = "the"
        rows.append(Row(" ".join(words), None, -1))
        labels.append(label)
    return rows, np.array(labels)


@pytest.fixture(scope="module")
def case(tiny):
    """An encoder, data and tokens of a small task of two classes."""
    encoder = resolve(str(tiny("bert")))
    rows, labels = {}, {}
    for seed, (split, count) in enumerate({"train": ROWS, "validation": 20}.items()):
        rows[split], labels[split] = texts(count, seed)
    tokeniser, tokens = tokenise(encoder, rows, LENGTH)
    features = {split: np.zeros((len(found), 24), np.float32) for split, found in labels.items()}
    data = FitData(
        own_task("toy", ("no", "yes"), pair=False), "0" * 64, features, labels, fit_scaling("none", features["train"])
    )
    return encoder, data, tokeniser, tokens


def recipe(head="linear", protocol="clean", seed=0, *, name="a" * 16, training=None, **options):
    config = resolve_head(
        head,
        seed=seed,
        features="pooled",
        protocol=protocol,
        options=HEAD_DEFAULTS[protocol] | {"scale": "none"} | options,
    )
    return Recipe(name, config, encoder_training(protocol, training or {}), "float32")


def run(case, folder, made, **changes):
    encoder, data, tokeniser, tokens = case
    return train(made, encoder, data, tokens, tokeniser, LENGTH, folder, CPU, **changes)


def trainer_losses(case, made, folder, steps, monkeypatch):
    """The loss of each of the first steps, as Trainer computes them."""
    losses = []
    original = FinetuneTrainer.compute_loss

    def recorded(self, *given, **named):
        loss = original(self, *given, **named)
        if self.model.training:
            losses.append((loss[0] if isinstance(loss, tuple) else loss).item())
        return loss

    monkeypatch.setattr(FinetuneTrainer, "compute_loss", recorded)
    run(case, folder, made)
    return losses[:steps]


def test_published_recipe_takes_the_steps_of_a_plain_transformers_loop(case, tmp_path, monkeypatch):
    encoder, data, _, tokens = case
    made = recipe(protocol="published", epochs=5)
    assert (made.config.batch_size, made.config.lr, made.encoder.lr, made.encoder.pad) == (4, 2e-5, 2e-5, "max_length")
    assert recipe(protocol="published").config.epochs == 10
    made = replace(made, config=replace(made.config, lr=1e-3), encoder=replace(made.encoder, lr=1e-3))
    mine = trainer_losses(case, made, tmp_path / "run", 50, monkeypatch)

    head = build(made, encoder, data).head
    set_seed(0)
    model = AutoModel.from_pretrained(encoder.folder).train()
    weight, bias = (head.tensors()[f"layers.0.{name}"].detach().clone().requires_grad_() for name in ("weight", "bias"))
    optimiser = torch.optim.AdamW([*model.parameters(), weight, bias], lr=1e-3, weight_decay=0.0, eps=1e-6)
    order, plain = replicate(data, 0, "published"), []
    schedule = get_linear_schedule_with_warmup(optimiser, 0, 5 * ROWS // 4)
    dropout = torch.nn.Dropout(0.1)
    labels = torch.from_numpy(data.labels["train"])
    set_seed(0)
    for epoch in range(5):
        for _ in range(1 + bool(epoch)):  # a loader draws its base seed: that of the last evaluation, and this epoch's
            torch.empty((), dtype=torch.int64).random_()
        for rows in np.split(order.order(epoch), ROWS // 4):
            items = TokenRows(tokens["train"], None, rows)
            batch = Collator(0, True, LENGTH)([items[at] for at in range(4)])
            logits = dropout(model(**batch).pooler_output) @ weight + bias
            loss = torch.nn.functional.cross_entropy(logits, labels[rows])
            plain.append(loss.item())
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*model.parameters(), weight, bias], 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
    assert len(mine) == 50
    np.testing.assert_allclose(mine, plain[:50], atol=1e-3)
    assert np.std(plain) > 0.05  # a flat curve would match anything


def without_dropout(tiny):
    return tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def test_accumulation_gives_the_step_of_one_batch(case, tiny, tmp_path):
    _, data, _, _ = case
    encoder = resolve(str(without_dropout(tiny)))
    rows = {split: texts(len(found), seed)[0] for seed, (split, found) in enumerate(data.labels.items())}
    tokeniser, tokens = tokenise(encoder, rows, LENGTH)
    weights = []
    for pieces in (1, 4):
        made = recipe(protocol="published", epochs=1, batch_size=16, training={"accumulation": pieces, "dropout": 0.0})
        made = replace(made, encoder=replace(made.encoder, lr=1e-3, adam_epsilon=1e-3))
        model = train(made, encoder, data, tokens, tokeniser, LENGTH, tmp_path / str(pieces), CPU).model
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    np.testing.assert_allclose(weights[0], weights[1], atol=2e-6)


@pytest.mark.parametrize("cut", [False, True])
def test_resumption_gives_the_weights_of_an_uninterrupted_run(case, tmp_path, cut):
    made = recipe("effi_kan", epochs=3, hidden=4, batch_size=8)
    whole = run(case, tmp_path / "whole", made)

    class Stop(Exception):
        pass

    def interrupt(_):
        done.append(1)
        if len(done) == 2:
            raise Stop

    done = []
    with pytest.raises(Stop):
        run(case, tmp_path / "killed", made, on_epoch=interrupt)
    points = sorted((tmp_path / "killed").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    if cut:
        weights = points[-1] / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        assert resume_point(tmp_path / "killed", made.id) == str(points[-2])
        assert not points[-1].exists()
    again = run(case, tmp_path / "killed", made)
    for (name, one), other in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), atol=1e-6, err_msg=name)
    assert again.epoch == whole.epoch
    assert [row[1:] for row in again.curve] == [row[1:] for row in whole.curve]


def test_checkpoints_without_a_marker_or_of_another_run_are_not_resumed(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoint-3").mkdir(parents=True)
    assert resume_point(folder, "a" * 16) is None
    assert not (folder / "checkpoint-3").exists()
    (folder / "checkpoint-4").mkdir()
    (folder / "checkpoint-4" / MARKER).write_text('{"run": "b", "files": {}}')
    with pytest.raises(ResultsError, match="expected a checkpoint of run a"):
        resume_point(folder, "a" * 16)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ResultsError, match="expected a folder of your own"):
        resume_point(tmp_path / "link", "b")


@pytest.mark.parametrize("head", ["linear", "mlp", "effi_kan", "fast_kan", "faster_kan", "ensemble_kan"])
def test_what_is_saved_computes_what_was_trained(case, tmp_path, head):
    encoder, _, _, tokens = case
    made = recipe(head, epochs=1, batch_size=16, hidden=None if head == "linear" else 4)
    trained = run(case, tmp_path / "run", made)
    save_encoder(trained.model, encoder, tmp_path / "encoder")
    tuned = resolve(str(tmp_path / "encoder"))
    assert tuned.weights_sha256 != encoder.weights_sha256
    assert tuned.tokenizer_sha256 == encoder.tokenizer_sha256
    reloaded = EncoderWithHead(
        AutoModel.from_pretrained(tmp_path / "encoder").eval(), "pooled", trained.model.head, 0.1
    ).eval()
    found = outputs(reloaded, tokens["validation"], Collator(0, True), CPU)
    np.testing.assert_allclose(found, trained.outputs["validation"], atol=1e-6)


def test_lora_trains_the_wrapped_encoder_and_the_whole_head_and_merges(case, tmp_path, monkeypatch):
    encoder, data, _, tokens = case
    made = recipe("mlp", epochs=2, hidden=4, batch_size=8, training={"lora": 4, "lr": 1e-2})
    start = build(made, encoder, data)
    trained = {name for name, parameter in start.named_parameters() if parameter.requires_grad}
    assert all("lora" in name for name in trained if name.startswith("encoder."))
    assert {name for name in trained if name.startswith("head.")} == {
        f"head.{n}" for n, _ in start.head.named_parameters()
    }
    before = []
    merge = finetune_train.merge_lora

    def observed(wrapped):
        model = EncoderWithHead(wrapped, "pooled", held[0], 0.1).eval()
        before.append(outputs(model, tokens["validation"], Collator(0, True), CPU))
        return merge(wrapped)

    held = []
    original = EncoderWithHead.eval
    monkeypatch.setattr(EncoderWithHead, "eval", lambda self: (held.append(self.head), original(self))[1])
    monkeypatch.setattr(finetune_train, "merge_lora", observed)
    result = run(case, tmp_path / "run", made)
    save_encoder(result.model, encoder, tmp_path / "encoder")
    reloaded = EncoderWithHead(AutoModel.from_pretrained(tmp_path / "encoder").eval(), "pooled", result.model.head, 0.1)
    found = outputs(reloaded.eval(), tokens["validation"], Collator(0, True), CPU)
    np.testing.assert_allclose(found, before[0], atol=1e-4)
    plain = outputs(
        EncoderWithHead(AutoModel.from_pretrained(encoder.folder), "pooled", result.model.head, 0.1).eval(),
        tokens["validation"], Collator(0, True), CPU,
    )  # fmt: skip
    assert np.abs(found - plain).max() > 1e-3  # the merged updates are not nothing


@pytest.mark.parametrize("kind", ["mpnet", "distilbert", "albert", "bert"])
def test_lora_has_targets_for_models_that_peft_knows_none_for(tiny, case, kind):
    _, data, _, _ = case
    made = recipe(training={"lora": 2})
    made = replace(made, config=replace(made.config, features="mean"))
    model = build(made, resolve(str(tiny(kind))), data)
    assert any("lora" in name for name, _ in model.encoder.named_parameters())


def test_rates_decay_from_the_top_layer_and_the_head_has_its_own(case):
    encoder, data, _, _ = case
    made = recipe(lr=0.5, training={"lr": 0.1, "layer_decay": 0.5})
    model = build(made, encoder, data)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        names[id(p)]: group["lr"] for group in rate_groups(model, made.config, made.encoder) for p in group["params"]
    }
    assert {rate for name, rate in rates.items() if name.startswith("head.")} == {0.5}
    assert {rate for name, rate in rates.items() if ".layer.2." in name} == {0.1}
    assert {rate for name, rate in rates.items() if ".layer.0." in name} == {0.025}
    assert {rate for name, rate in rates.items() if ".embeddings." in name} == {0.0125}
    assert set(rates) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(case, tmp_path):
    made = recipe("mlp", epochs=4, hidden=4, lr=1e30, batch_size=8)
    result = run(case, tmp_path / "run", made)
    assert result.diverged_at is not None
    assert len(result.curve) < 4


def test_precision_is_ours_and_not_a_default_of_accelerate(case, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    encoder, data, _, tokens = case
    made = recipe()
    rows = TokenRows(tokens["train"], torch.from_numpy(data.labels["train"]))
    trainer = FinetuneTrainer(
        made, build(made, encoder, data), EpochOrder(replicate(data, 0, "clean")), args=arguments(made, tmp_path, CPU),
        train_dataset=rows, eval_dataset=rows,
    )  # fmt: skip
    assert trainer.accelerator.mixed_precision == "no"
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_early_stopping_ends_after_patience(case, tmp_path):
    made = recipe(epochs=20, batch_size=16, lr=1e-12, training={"lr": 1e-12, "patience": 2})
    assert len(run(case, tmp_path / "run", made).curve) == 3


def test_a_batch_that_accumulation_does_not_divide_is_refused(tmp_path):
    made = recipe(batch_size=10, training={"accumulation": 4})
    with pytest.raises(DeviceError, match=r"expected a multiple of accumulation times GPUs \(4\), found 10"):
        arguments(made, tmp_path, CPU)


@pytest.mark.parametrize(
    ("option", "value"), [("lr", 0), ("layer_decay", 2), ("lora", -1), ("pad", "none"), ("warmup", 1), ("patience", 0)]
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option}: expected .*, found {value!r}"):
        encoder_training("clean", {option: value})
