"""What goes into a checkpoint comes back, or is refused."""

import dataclasses

import pytest
import torch

from nlptl import TrainingConfig, UntrustedFileError
from nlptl.training.optimizer import build_optimizer
from nlptl.training.snapshot import (
    State,
    capture,
    load_tensors,
    names_by_id,
    restore_optimizer,
    restore_weights,
    trained_tensors,
)


def names_of(model):
    return frozenset(name for name, p in model.network.named_parameters() if p.requires_grad)


def capture_all(model, optimizer, state, scaler=None):
    return capture(model.network, names_of(model), optimizer, state, scaler=scaler)


def restore(checkpoint, model, optimizer, scaler=None):
    state = restore_weights(checkpoint, model.network, names_of(model), scaler)
    restore_optimizer(optimizer, checkpoint.optimizer, names_by_id(model.network))
    return state


@pytest.fixture
def trained(build_model):
    """Return a model and its optimizer after a step, and the checkpoint of that."""
    model = build_model(freeze=1)
    optimizer = build_optimizer(model, TrainingConfig())
    for parameter in model.network.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    state = State(step=5, best_step=3, best_value=0.5, evaluations_since_best=2, is_stopped=True)
    return model, optimizer, capture_all(model, optimizer, state)


def test_best_value_is_kept():
    state, seen = State(), []
    for step, value in enumerate((0.5, 0.5, 0.4, 0.7, float("nan"), 0.6), start=1):
        state.step = step
        seen.append((state.observe(value, lower_is_better=False, patience=2), state.is_stopped))
    assert seen == [(True, False), (False, False), (False, True), (True, False), (False, False), (False, True)]
    assert (state.best_step, state.best_value) == (4, 0.7)


def test_lower_may_be_better_and_nan_is_never_best():
    state = State()
    values = (float("nan"), float("inf"), 0.5, 0.6, -1.0)
    assert [state.observe(v, lower_is_better=True, patience=None) for v in values] == [False, False, True, False, True]
    assert not state.is_stopped


def test_restore_puts_back_what_was_captured(trained, build_model):
    model, optimizer, checkpoint = trained
    fresh = build_model(freeze=1, seed=1)
    other = build_optimizer(fresh, TrainingConfig())
    state = restore(checkpoint, fresh, other)
    assert state == State(step=5, best_step=3, best_value=0.5, evaluations_since_best=2, is_stopped=True)
    for (name, mine), theirs in zip(model.network.named_parameters(), fresh.network.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
        assert mine.data_ptr() != theirs.data_ptr()
    again = capture_all(fresh, other, state)
    assert again.state == checkpoint.state
    assert again.optimizer.keys() == checkpoint.optimizer.keys()
    assert all(torch.equal(again.optimizer[key], value) for key, value in checkpoint.optimizer.items())


def test_scaler_is_part_of_it(trained):
    model, optimizer, _ = trained
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    checkpoint = capture_all(model, optimizer, State(), scaler)
    assert checkpoint.state["scaler"]["scale"] == 128.0
    other = torch.amp.GradScaler("cpu", init_scale=2.0)
    restore(checkpoint, model, optimizer, other)
    assert other.state_dict() == scaler.state_dict()


def test_tensors_that_do_not_train_are_refused(trained):
    model, optimizer, checkpoint = trained
    weights = checkpoint.weights
    name = min(weights)
    for wrong in (
        {**weights, "bert.embeddings.LayerNorm.bias": torch.zeros(32)},
        {key: value for key, value in weights.items() if key != name},
        {**weights, name: torch.zeros(1)},
    ):
        before = trained_tensors(model.network, names_of(model))[name].clone()
        with pytest.raises(UntrustedFileError, match=r"; 1 are missing, unknown or of another shape, such as"):
            load_tensors(model.network, names_of(model), wrong)
        assert torch.equal(trained_tensors(model.network, names_of(model))[name], before)


def test_other_optimizer_state_is_refused(trained):
    model, optimizer, checkpoint = trained
    name = "classifier.bias"
    less = {key: value for key, value in checkpoint.optimizer.items() if not key.startswith(name)}
    wrong = dataclasses.replace(checkpoint, optimizer=less)
    with pytest.raises(UntrustedFileError, match=rf"they differ in {name}\. Resume with the settings of the run"):
        restore(wrong, model, optimizer)


def test_state_of_another_version_is_refused(trained):
    model, optimizer, checkpoint = trained
    wrong = dataclasses.replace(checkpoint, state={**checkpoint.state, "epoch": 2})
    with pytest.raises(UntrustedFileError, match="Use the version of nlptl that wrote it"):
        restore(wrong, model, optimizer)
