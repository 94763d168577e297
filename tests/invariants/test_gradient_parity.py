"""One gradient, however a global batch is split: against the plain mean over the whole batch, in float64."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nlptl import Trainer, TrainingConfig
from nlptl.data.batches import collate
from nlptl.data.order import order
from nlptl.model.encoder import FAMILIES
from tests.conftest import cover, cover_pairs

KINDS = {
    "bert": {},
    "distilbert": {},
    "dense head": {"pooling": "mean", "hidden": 8},
    "frozen": {"freeze": "encoder"},
    "sigmoid": {"binary_loss": "sigmoid"},
    "sigmoid dense": {"pooling": "mean", "hidden": 8, "binary_loss": "sigmoid"},
}

SPLITS = [(160, [1, 1]), (80, [2, 1]), (60, [3, 1]), (40, [4, 2]), (30, [7, 2]), (20, [8, 3]), (None, [1, 1])]
"""Tokens at once, and how many micro-batches that makes of each of the two steps."""
LOSSES = [(0.0, None), (0.1, None), (0.0, (0.3, 2.0)), (0.1, (3.0, 0.5))]
"""Label smoothing and class weights."""


def plain_gradient(model, weights, examples, indices, *, label_smoothing, class_weights):
    """Return loss and gradients of the mean over all examples, padded into one batch, with stock torch ops."""
    model = copy.deepcopy(model).eval()
    parameters = dict(model.network.named_parameters())
    with torch.no_grad():
        for name, (weight, _) in weights.items():
            parameters[name].copy_(weight)
    model.zero_grad()
    tokens = model.tokenize(examples.texts)
    batch = collate(tokens, indices, pad_id=model.pad_id, device=torch.device("cpu"))
    labels = torch.tensor([model.labels.names.index(examples.labels[i]) for i in indices])
    logits = model.network(**batch).logits
    if model.head.binary_loss == "sigmoid":  # that of the second logit is that of the logits (0, z)
        logits = torch.stack([torch.zeros_like(logits[:, 1]), logits[:, 1]], dim=1)
    weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64)
    loss = F.cross_entropy(logits, labels, weight=weight, label_smoothing=label_smoothing)
    loss.backward()
    return loss.item(), {name: parameters[name].grad for name in weights}


@pytest.mark.parametrize(("kind", "split", "loss"), cover_pairs(KINDS, SPLITS, LOSSES))
def test_gradient_is_that_of_the_whole_batch(kind, split, loss, build_model, texts_of_lengths, watch_steps, tmp_path):
    (max_tokens, num_micro_batches), (label_smoothing, class_weights) = split, loss
    model = build_model("distilbert" if kind == "distilbert" else "bert", **KINDS[kind])
    examples = texts_of_lengths(11)
    config = TrainingConfig(
        num_epochs=1,
        batch_size=8,
        learning_rate=0.01,
        optimizer="sgd",
        schedule="constant",
        warmup_ratio=0,
        max_grad_norm=0,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        micro_batch_tokens=max_tokens,
        logging_steps=1,
        cache=max_tokens != 40,
    )
    micro_batches = []
    handle = model.register_forward_hook(lambda *_: micro_batches.append(torch.is_grad_enabled()))
    with watch_steps(model) as steps:
        Trainer(model, config, output_dir=tmp_path / "run", seed=0).fit(examples)
    handle.remove()

    indices = order(11, 0, 0)
    # Over a frozen encoder the head takes a step's examples at once, whatever the encoder took.
    assert [len(steps), sum(micro_batches)] == [2, 2 if kind == "frozen" else sum(num_micro_batches)]
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for step, rows, record in zip(steps, (indices[:8], indices[8:]), records, strict=True):
        loss, gradients = plain_gradient(
            model, step, examples, rows, label_smoothing=label_smoothing, class_weights=class_weights
        )
        largest = max(gradient.abs().max() for gradient in gradients.values())
        assert largest > 1e-3
        for name, gradient in gradients.items():
            assert (step[name][1] - gradient).abs().max() <= 1e-10 * largest, name
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
        assert record["loss"] == pytest.approx(loss, rel=1e-10)
        assert record["gradient_norm"] == pytest.approx(norm, rel=1e-10)


@pytest.mark.parametrize(
    ("settings", "max_tokens"),
    [
        ({"chunk_pooling": "mean"}, 30),
        ({"chunk_pooling": "max", "pooling": "cls", "layers": 2}, 60),
        ({"chunk_pooling": "attention", "pooling": "attention"}, 30),
        ({"chunk_pooling": "attention", "pooling": "attention"}, 400),
        ({"chunk_pooling": "attention", "freeze": 1, "hidden": 8}, 90),
    ],
    ids=str,
)
def test_gradient_of_texts_in_chunks(settings, max_tokens, build_model, texts_of_lengths, watch_steps):
    """Texts of one to three chunks, which stand in a micro-batch beside others or alone."""
    model, examples = build_model(long_text="chunks", max_length=12, **settings), texts_of_lengths(11)
    lengths = model.tokenize(examples.texts).lengths
    assert set(np.ceil(lengths / 12)) == {1, 2, 3}
    config = TrainingConfig(
        num_epochs=1, batch_size=11, optimizer="sgd", max_grad_norm=0, micro_batch_tokens=max(max_tokens, max(lengths))
    )
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    with watch_steps(model) as steps:
        Trainer(model, config).fit(examples)
    handle.remove()
    assert (len(steps), sum(passes) == 1) == (1, max_tokens == 400)
    _, gradients = plain_gradient(model, steps[0], examples, range(11), label_smoothing=0.0, class_weights=None)
    largest = max(gradient.abs().max() for gradient in gradients.values())
    assert largest > 1e-3
    for name, gradient in gradients.items():
        assert (steps[0][name][1] - gradient).abs().max() <= 1e-10 * largest, name


def test_clipping_is_by_the_norm_of_the_whole_step(build_model, texts_of_lengths, watch_steps):
    clipped = []
    for max_tokens in (20, 160):
        model = build_model()
        config = TrainingConfig(num_epochs=1, batch_size=8, max_grad_norm=1e-3, micro_batch_tokens=max_tokens)
        with watch_steps(model) as steps:
            Trainer(model, config).fit(texts_of_lengths(8))
        clipped.append({name: gradient for name, (_, gradient) in steps[0].items()})
    norm = torch.stack([gradient.norm() for gradient in clipped[0].values()]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-3)
    for name, gradient in clipped[0].items():
        torch.testing.assert_close(gradient, clipped[1][name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("family", "pooling"), [*cover(FAMILIES, ["native", "mean"]), ("bert", "mean")])
def test_what_trains_gets_a_gradient(family, pooling, build_model, texts_of_lengths, watch_steps):
    model = build_model(family, pooling=pooling).float()
    with watch_steps(model) as steps:
        Trainer(model, TrainingConfig(num_epochs=1, batch_size=8)).fit(texts_of_lengths(8))
    assert [name for name, (_, gradient) in steps[0].items() if gradient is None] == []
