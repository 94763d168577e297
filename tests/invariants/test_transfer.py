"""What holds on every family: rates by depth, frozen weights, and the same weights whatever is computed only once."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from nlptl import Classifier, Examples, Trainer, TrainingConfig
from nlptl.model.encoder import FAMILIES
from nlptl.training import boundary, mapped
from nlptl.training.optimizer import build_optimizer, learning_rates
from tests.conftest import OTHER_FAMILIES, cover, options, toy_rows
from tests.invariants import transfer_worker
from tests.processes import launch

LABELS = ("negative", "positive")
REPOSITORY = Path(__file__).parents[2]
WORKER = Path(transfer_worker.__file__)
Weights = dict[str, torch.Tensor]
# SGD, since AdamW makes updates of full size of gradients that are zero but for rounding, such as those of key biases.
SGD = {"optimizer": "sgd", "learning_rate": 0.05, "warmup_ratio": 0.0, "batch_size": 8, "micro_batch_tokens": 100}

every_encoder = pytest.mark.parametrize("name", [*FAMILIES, *OTHER_FAMILIES])


def weights_of(model: Classifier) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}


def toy_examples(count: int = 24) -> Examples:
    return Examples.from_lists(*map(list, zip(*toy_rows(count), strict=True)))


@pytest.fixture
def train(deep_folder: Callable[[str], Path]) -> Callable[..., Weights]:
    """Return a function that trains a model with dropout for two epochs of three steps, and gives its last weights."""

    def run(name: str = "bert", *, transfer: dict[str, Any], **settings: Any) -> Weights:
        model = Classifier.from_pretrained(deep_folder(name), labels=LABELS, **options(**{"dropout": 0.2, **transfer}))
        config = TrainingConfig(**{"num_epochs": 2, **SGD, **settings})
        Trainer(model, config, seed=0).fit(toy_examples())
        return weights_of(model)

    return run


def assert_close(one: Weights, two: Weights, *, atol: float) -> None:
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=atol)


@every_encoder
def test_rates_fall_with_depth(name: str, deep_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(deep_folder(name), labels=LABELS)
    config = TrainingConfig(learning_rate=0.1, head_learning_rate=0.3, layer_decay=0.8)
    rates = learning_rates(model, config)
    below_top = ["embeddings", *model.parts.layer_names][::-1]
    assert len(below_top) == (2 if name == "albert" else 4)
    expected = {group: np.float64(0.1) * np.float64(0.8) ** depth for depth, group in enumerate(below_top)}
    expected |= {"final norm": 0.1, "pooler": 0.1, "head": 0.3}
    assert rates == pytest.approx(expected, rel=1e-12)
    in_order = [rates[group] for group in model.parts.group_names]
    assert in_order == sorted(in_order)

    by_id = {id(p): n for n, p in model.network.named_parameters()}
    given = {by_id[id(p)]: g["peak_lr"] for g in build_optimizer(model, config).param_groups for p in g["params"]}
    assert given.keys() == set(by_id.values())
    prefix = f"{model.network.base_model_prefix}."
    for parameter, rate in given.items():
        layer = re.search(r"\blayers?\.(\d)\.", parameter)
        if layer and name != "albert":
            assert rate == pytest.approx(0.1 * 0.8 ** (2 - int(layer[1]))), parameter
        elif not parameter.startswith(prefix):
            assert rate == 0.3, parameter
        elif ".word_embeddings." in parameter or ".tok_embeddings." in parameter:
            assert rate == min(given.values()) < 0.1, parameter


FROZEN = {
    "layer": {"freeze": 1},
    "embeddings": {"freeze": "embeddings"},
    "encoder": {"freeze": "encoder"},
    "norms": {"train_only": "norms"},
    "biases": {"train_only": "biases"},
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        # The layers of ALBERT are one, and cannot be frozen in part.
        *((name, "embeddings" if name == "albert" else "layer") for name in FAMILIES),
        *(("bert", kind) for kind in ("embeddings", "encoder", "norms", "biases")),
    ],
)
def test_what_is_frozen_stays_bit_equal(name: str, kind: str, deep_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(deep_folder(name), labels=LABELS, **options(**FROZEN[kind]))
    before, groups = weights_of(model), model.groups
    trained = {n for n, p in model.network.named_parameters() if p.requires_grad}
    config = TrainingConfig(num_epochs=2, batch_size=12, learning_rate=1e-3, weight_decay=0.1)
    Trainer(model, config).fit(toy_examples())
    after = weights_of(model)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed <= trained
    assert {groups[n] for n in changed} == {groups[n] for n in trained}
    assert "head" in {groups[n] for n in changed}
    model.train()
    frozen = [
        m for m in model.network.modules() if list(m.parameters()) and not any(map(requires_grad, m.parameters()))
    ]
    assert frozen
    assert not any(child.training for module in frozen for child in module.modules())


def requires_grad(parameter: torch.nn.Parameter) -> bool:
    return parameter.requires_grad


CACHED = {
    "mean": ({"freeze": "encoder"}, {}),
    "attention": ({"freeze": "encoder", "pooling": "attention"}, {}),
    "mix": ({"freeze": "encoder", "layers": "mix"}, {}),
    "two layers": ({"freeze": "encoder", "layers": 2, "hidden": 8}, {}),
    "one layer frozen": ({"freeze": 1}, {}),
    "all layers frozen": ({"freeze": 3}, {}),
    "frozen above what a mix reads": ({"freeze": 2, "pooling": "mean", "layers": "mix"}, {}),
    "frozen above what the head reads": ({"freeze": 2, "pooling": "max", "layers": 3}, {}),
    "biases": ({"freeze": 2, "train_only": "biases"}, {}),
    "lora": ({"freeze": 1, "lora_rank": 2, "lora_dropout": 0.1}, {}),
    "dora": ({"freeze": 1, "lora_rank": 2, "dora": True}, {}),
    "warm head": ({"freeze": 1}, {"num_epochs": 4, "warm_head_epochs": 2}),
    "gradual": ({}, {"num_epochs": 6, "unfreeze_every_epochs": 2}),
    "gradual lora": ({"lora_rank": 2}, {"num_epochs": 6, "unfreeze_every_epochs": 2}),
}


@pytest.mark.parametrize("kind", CACHED)
def test_what_is_computed_once_changes_no_weight(
    kind: str, train: Callable[..., Weights], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    transfer, settings = CACHED[kind]
    cached = train(transfer=transfer, **settings)
    assert (" once " in caplog.text) == (kind != "frozen above what a mix reads")
    caplog.clear()
    assert_close(cached, train(transfer=transfer, **settings, cache=False), atol=1e-6)
    assert " once " not in caplog.text


@pytest.mark.parametrize(
    ("name", "transfer"),
    cover([*FAMILIES, *OTHER_FAMILIES], [{"freeze": 1}, {"freeze": "encoder"}, {"freeze": 2, "pooling": "attention"}]),
    ids=str,
)
def test_what_is_computed_once_changes_no_weight_of_any_family(
    name: str, transfer: dict[str, Any], train: Callable[..., Weights], caplog: pytest.LogCaptureFixture
):
    if name == "albert" and transfer["freeze"] != "encoder":
        transfer = {"freeze": "encoder", "pooling": "attention"}
    caplog.set_level(logging.INFO)
    cached = train(name, transfer=transfer)
    # Layers that share their weights have no depth at which they could be cut.
    assert (" once " in caplog.text) == (name != "albert" or "pooling" not in transfer)
    assert_close(cached, train(name, transfer=transfer, cache=False), atol=1e-6)


def test_every_layer_that_is_thawed_moves_the_boundary_down(
    train: Callable[..., Weights], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    train(transfer={}, num_epochs=8, unfreeze_every_epochs=2)
    once = [message for message in caplog.messages if " once " in message]
    words = [
        "running the frozen encoder once over 24 texts",
        "layers 1 to 2 once for 2 passes",
        "layers 1 to 1 once for 2 p",
    ]
    assert len(once) == 3
    assert all(word in message for word, message in zip(words, once, strict=True))


def test_half_the_bits_make_a_small_difference(train: Callable[..., Weights], caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    whole, half = (train(transfer={"freeze": 1}, cache_dtype=dtype) for dtype in ("float32", "float16"))
    assert "of hidden states, rounded to 11 bits" in caplog.text
    largest = max((whole[name] - half[name]).abs().max().item() for name in whole)
    moved = (whole["classifier.weight"] - train(transfer={"freeze": 1}, num_epochs=1)["classifier.weight"]).abs().max()
    assert 0 < largest < 0.1 * moved


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_hidden_states_in_a_file_give_the_same_bits(
    dtype: str, train: Callable[..., Weights], monkeypatch: pytest.MonkeyPatch, feature_cache: Path
):
    settings = {"transfer": {"freeze": 1}, "cache_dtype": dtype}
    in_memory = train(**settings)
    monkeypatch.setattr(boundary, "MEMORY_SHARE", 0)
    created = []
    real = mapped._create_file
    monkeypatch.setattr(mapped, "_create_file", lambda path, size: created.append(path) or real(path, size))
    assert_close(train(**settings), in_memory, atol=0)
    assert [path.parent for path in created] == [feature_cache]
    assert list(feature_cache.rglob("*")) == []


@pytest.fixture
def watch(deep_folder: Callable[[str], Path]) -> Callable[..., tuple[list[Weights], list[Weights], Weights]]:
    """Return a function that trains with plain SGD on all examples at once.

    It gives the gradients of each step, the weights after it, and the weights that were kept.
    """

    def run(num_steps: int = 3, **settings: Any) -> tuple[list[Weights], list[Weights], Weights]:
        model = Classifier.from_pretrained(deep_folder("bert"), labels=LABELS, dropout=0)
        gradients, weights = [], []

        def look(*_: object) -> None:
            gradients.append({name: p.grad.clone() for name, p in model.network.named_parameters()})

        handles = [
            register_optimizer_step_pre_hook(look),
            register_optimizer_step_post_hook(lambda *_: weights.append(weights_of(model))),
        ]
        try:
            config = TrainingConfig(
                **{**SGD, "batch_size": 24, "num_epochs": num_steps, "max_grad_norm": 0, **settings}
            )
            Trainer(model, config).fit(toy_examples())
        finally:
            for handle in handles:
                handle.remove()
        return gradients, weights, weights_of(model)

    return run


@pytest.fixture(scope="module")
def found(deep_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with what one process and two processes have trained."""
    output = tmp_path_factory.mktemp("processes")
    codes, said = launch([transfer_worker.__file__, deep_folder("bert"), output], NLPTL_CACHE=str(output / "cache"))
    assert codes == [0, 0], "\n".join(said)
    assert "train: running layers 1 to 1 once for 2 passes" in said[0]
    transfer_worker.main(deep_folder("bert"), output)
    return output


@pytest.mark.multiprocess
@pytest.mark.parametrize("regime", transfer_worker.REGIMES)
def test_two_processes_give_the_weights_of_one(regime: str, found: Path):
    one = load_file(found / f"{regime}-0-of-1.safetensors")
    for rank in (0, 1):
        assert_close(load_file(found / f"{regime}-{rank}-of-2.safetensors"), one, atol=1e-6)
    assert [path for path in (found / "cache").glob(".hidden*")] == []
