"""Rates, groups and rules are those of torch and transformers."""

import math

import pytest
import torch
from transformers import get_scheduler

from nlptl import ConfigError, TrainingConfig
from nlptl.training.optimizer import build_optimizer, check_rates, learning_rates, rate_multiplier, weight_decays

HF_NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@pytest.mark.parametrize("schedule", HF_NAMES)
@pytest.mark.parametrize("num_steps", [1, 2, 17, 100])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.06, 0.5, 1.0])
def test_rate_is_that_of_transformers(schedule, num_steps, warmup_ratio):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(
        HF_NAMES[schedule],
        optimizer,
        num_warmup_steps=min(math.ceil(warmup_ratio * num_steps), num_steps - 1),
        num_training_steps=num_steps,
    )
    for step in range(num_steps):
        rate = rate_multiplier(step, num_steps=num_steps, warmup_ratio=warmup_ratio, schedule=schedule)
        assert rate == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-15)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.06, 1.0])
def test_an_only_step_learns(warmup_ratio):
    assert rate_multiplier(0, num_steps=1, warmup_ratio=warmup_ratio, schedule="linear") == 1.0


@pytest.mark.parametrize(
    ("freeze", "settings", "encoder", "head"),
    [
        ("nothing", {}, 5e-5, 5e-5),
        ("nothing", {"learning_rate": 0.1}, 0.1, 0.1),
        ("nothing", {"head_learning_rate": 0.2}, 5e-5, 0.2),
        ("nothing", {"learning_rate": 0.1, "head_learning_rate": 0.2}, 0.1, 0.2),
        ("encoder", {}, None, 5e-3),
        ("encoder", {"learning_rate": 0.1}, None, 0.1),
        ("encoder", {"head_learning_rate": 0.2}, None, 0.2),
    ],
)
def test_learning_rates(freeze, settings, encoder, head, build_model):
    rates = learning_rates(build_model(freeze=freeze), TrainingConfig(**settings))
    assert rates["head"] == head
    assert encoder is None or {rates[name] for name in rates.keys() - {"head"}} == {encoder}


def test_rate_of_the_head_before_the_encoder_trains(build_model):
    model = build_model(freeze="encoder")
    for settings, rate in (({"learning_rate": 1e-5}, 5e-3), ({"learning_rate": 1e-5, "head_learning_rate": 0.2}, 0.2)):
        assert learning_rates(model, TrainingConfig(**settings), before_encoder=True)["head"] == rate


@pytest.mark.parametrize("settings", [{"train_only": "biases"}, {"train_only": "norms"}, {"lora_rank": 2}])
def test_default_rate_where_few_parameters_train(settings, build_model):
    assert set(learning_rates(build_model(**settings), TrainingConfig()).values()) == {5e-4}


def test_decays_of_encoder_and_head(build_model):
    model = build_model()
    for settings, encoder, head in (({"head_weight_decay": 0.3}, 0.01, 0.3), ({"weight_decay": 0.2}, 0.2, 0.2)):
        decays = weight_decays(model, TrainingConfig(**settings))
        assert (decays["layer 1"], decays["head"]) == (encoder, head)


def test_default_rate_of_a_linear_head_that_trains_alone(build_model):
    for head, rate in (({}, 5e-3), ({"hidden": 8}, 1e-3)):
        model = build_model(freeze="encoder", **head)
        groups = build_optimizer(model, TrainingConfig()).param_groups
        assert {group["peak_lr"] for group in groups} == {rate}


def test_two_rates_for_a_head_are_refused():
    config = TrainingConfig(learning_rate=0.1, head_learning_rate=0.2)
    with pytest.raises(ConfigError, match=r"head trains: learning_rate=0\.1 and head_learning_rate=0\.2 contradict"):
        check_rates(config, head_only=True)


@pytest.mark.parametrize(
    ("optimizer", "weight_decay", "expected"),
    [("adamw", None, 0.01), ("adam", None, 0.0), ("sgd", None, 0.0), ("adamw", 0.3, 0.3), ("sgd", 0.3, 0.3)],
)
def test_groups(optimizer, weight_decay, expected, build_model):
    model = build_model(freeze="embeddings")
    config = TrainingConfig(
        optimizer=optimizer, weight_decay=weight_decay, learning_rate=0.1, head_learning_rate=0.2, label_smoothing=0.1
    )
    names = {id(parameter): name for name, parameter in model.network.named_parameters()}
    groups = build_optimizer(model, config).param_groups
    found = {names[id(p)]: (group["peak_lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    trained = {name for name, p in model.network.named_parameters() if p.requires_grad}
    assert found.keys() == trained
    assert not any("embeddings" in name for name in found)
    for name, settings in found.items():
        no_decay = name.endswith(".bias") or "LayerNorm" in name
        assert settings == (0.2 if name.startswith("classifier.") else 0.1, 0.0 if no_decay else expected), name


@pytest.mark.parametrize("rule", ["adamw", "adam", "sgd"])
def test_steps_are_those_of_torch(rule, build_model):
    model = build_model(dropout=0.0)
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.network.named_parameters()}
    ours = build_optimizer(model, TrainingConfig(optimizer=rule, learning_rate=0.01, weight_decay=0.1))
    decayed = [p for p in weights.values() if p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": [p for p in weights.values() if p.ndim < 2]}]
    plain = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.0),
        "adam": lambda: torch.optim.Adam(groups, lr=0.01),
        "sgd": lambda: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
    }[rule]()
    for step in range(3):
        for name, parameter in model.network.named_parameters():
            gradient = torch.full_like(parameter, 0.1 * (step + 1))
            parameter.grad, weights[name].grad = gradient, gradient.clone()
        ours.step()
        plain.step()
    for name, parameter in model.network.named_parameters():
        torch.testing.assert_close(parameter, weights[name], rtol=1e-5, atol=1e-6)
