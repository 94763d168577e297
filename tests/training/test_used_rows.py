"""Updates of the used rows of the word embeddings alone are those of the whole table."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from nlptl import ConfigError, Examples, Trainer, TrainingConfig
from nlptl.training.checkpoint import latest_checkpoint
from nlptl.training.inputs import prepare_inputs
from nlptl.training.optimizer import build_optimizer
from nlptl.training.used_rows import UsedRows, used_rows

WAYS = {
    "weight decay": {"weight_decay": 0.1},
    "none": {"weight_decay": 0.0},
    "Adam": {"optimizer": "adam"},
    "SGD": {"optimizer": "sgd", "learning_rate": 0.05},
    "several micro-batches": {"micro_batch_tokens": 40},
    "a frozen start": {"warm_head_epochs": 1},
    "slower layers": {"layer_decay": 0.5},
    "everything else": {"r_drop": 1.0, "fgm": 0.1, "mixout": 0.1, "ema_decay": 0.9, "wise_ft": 0.5},
    "gradient checkpoints": {"gradient_checkpointing": True},
}


def table_of(model):
    return model.network.base_model.get_input_embeddings().weight


def config(**settings):
    return TrainingConfig(**{"num_epochs": 3, "batch_size": 24, "learning_rate": 1e-3, **settings})


def rows_of(model, splits, settings):
    return used_rows(model, settings, prepare_inputs(model, splits["train"], None), Accelerator())


@pytest.mark.parametrize("train", WAYS.values(), ids=WAYS)
def test_the_weights_are_those_of_the_whole_table(train, build_model, splits):
    found, start = [], table_of(build_model()).detach().clone()
    for sparse in (True, False):
        model = build_model(seed=1)
        Trainer(model, config(sparse_embeddings=sparse, **train), seed=3).fit(splits["train"])
        found.append({name: p.detach().clone() for name, p in model.network.named_parameters()})
        assert not model.network.base_model.get_input_embeddings().sparse
        assert table_of(model).grad is None
        assert not torch.equal(start, table_of(model))
    for name, weight in found[0].items():
        if name.endswith("key.bias"):  # Softmax does not see it: its gradient is rounding, which Adam scales up.
            continue
        torch.testing.assert_close(weight, found[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_sparse", [True, False])
def test_ten_updates_in_float64_are_those_of_adamw(is_sparse):
    torch.manual_seed(0)
    whole, parts = (torch.nn.Embedding(50, 4, padding_idx=0, dtype=torch.float64) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    rows = UsedRows(parts, np.array([0, 3, 7, 20, 49]), is_sparse=is_sparse)
    settings = {"lr": 0.01, "weight_decay": 0.1}
    plain, ours = torch.optim.AdamW([whole.weight], **settings), torch.optim.AdamW([rows.parameter], **settings)
    with rows.training():
        for _ in range(10):
            ids, slopes = torch.tensor([[3, 7, 7, 0], [49, 3, 20, 0]]), torch.randn(2, 4, 4, dtype=torch.float64)
            for embedding in (whole, parts):
                for row, slope in zip(ids, slopes, strict=True):  # two passes, whose gradients add up
                    (embedding(row) * slope).sum().backward()
            rows.take_gradient()
            torch.testing.assert_close(rows.parameter.grad, whole.weight.grad[rows.ids], rtol=1e-12, atol=1e-12)
            plain.step()
            plain.zero_grad()
            ours.step()
            rows.put_back(ours)
            ours.zero_grad()
            torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("is_sparse", [True, False])
def test_other_rows_are_no_silent_loss(is_sparse):
    rows = UsedRows(torch.nn.Embedding(9, 2), np.array([1, 2]), is_sparse=is_sparse)

    def step():
        rows.embedding(torch.tensor([1, 5])).sum().backward()
        rows.take_gradient()

    with rows.training(), pytest.raises(ConfigError, match=r"found 1 more: .* Pass --no-sparse-embeddings"):
        step()


@pytest.mark.parametrize("train", [{}, {"fgm": 0.1}])
def test_a_network_that_reads_the_table_elsewhere_is_refused(train, build_model, splits):
    model = build_model()
    forward = model.forward
    model.forward = lambda *args, **kwargs: forward(*args, **kwargs) + table_of(model).mean()
    with pytest.raises(ConfigError, match=r"reads the table, in the forward pass. Pass --no-sparse-embeddings"):
        Trainer(model, config(**train)).fit(splits["train"])
    Trainer(model, config(sparse_embeddings=False, **train)).fit(splits["train"])


def test_sparse_gradients_of_micro_batches_do_not_pile_up():
    rows = UsedRows(torch.nn.Embedding(50, 4), np.array([0, 3, 7]), is_sparse=True)
    with rows.training():
        for count in (1.0, 2.0):
            rows.embedding(torch.tensor([[3, 7, 7]])).sum().backward()
            assert rows.table.grad is None
            assert rows.parameter.grad[:, 0].tolist() == [0, count, 2 * count]


def test_hooks_of_the_user_get_a_gradient_that_is_dense(build_model, splits):
    weights = []
    for sparse in (True, False):
        model = build_model(seed=1)
        table_of(model).register_hook(lambda gradient: gradient.clamp(-0.001, 0.001))
        Trainer(model, config(sparse_embeddings=sparse), seed=3).fit(splits["train"])
        weights.append(table_of(model).detach().clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_a_table_that_is_computed_is_updated_by_its_own_parameters(build_model, splits):
    model = build_model()
    with torch.no_grad():
        table_of(model)[0] = 0.1  # Padding is zero, which has no norm to divide by.
    with pytest.warns(FutureWarning, match="weight_norm"):
        torch.nn.utils.weight_norm(model.network.base_model.get_input_embeddings(), dim=0)
    assert rows_of(model, splits, config()) is None


def test_state_and_gradients_are_those_of_the_rows(build_model, splits):
    model = build_model()
    rows = rows_of(model, splits, config())
    tokens = prepare_inputs(model, splits["train"], None).tokens
    assert rows.ids.tolist() == sorted({model.pad_id, *tokens.ids.tolist()})
    optimizer = build_optimizer(model, config(), instead={rows.table: rows.parameter})
    updated = [p for group in optimizer.param_groups for p in group["params"]]
    assert any(p is rows.parameter for p in updated)
    assert not any(p is rows.table for p in updated)
    assert sum(p.numel() for p in updated) == sum(p.numel() for p in model.parameters()) - (80 - len(rows.ids)) * 32


@pytest.mark.parametrize(
    ("transfer", "train"),
    [
        ({}, {"sparse_embeddings": False}),
        ({}, {"l2_sp": 0.1}),
        ({}, {"optimizer": "adam", "weight_decay": 0.1}),
        ({}, {"optimizer": "sgd", "weight_decay": 0.1}),
        ({"freeze": 1}, {}),
        ({"lora_rank": 2}, {}),
    ],
)
def test_where_all_rows_change_or_none(transfer, train, build_model, splits):
    assert rows_of(build_model(**transfer), splits, config(**train)) is None


def test_where_most_rows_are_used(build_model, splits):
    model = build_model()
    inputs = prepare_inputs(model, splits["train"], None)
    for count, is_worth in ((40, True), (41, False)):
        tokens = dataclasses.replace(inputs.tokens, ids=np.arange(80)[:count])
        found = used_rows(model, config(), dataclasses.replace(inputs, tokens=tokens), Accelerator())
        assert (found is not None) == is_worth


def test_a_table_that_another_layer_reads_is_updated_whole(build_model, splits):
    model = build_model()
    model.network.decoder = torch.nn.Linear(32, 80)
    model.network.decoder.weight = table_of(model)
    assert rows_of(model, splits, config()) is None


def test_a_checkpoint_does_not_depend_on_the_rows(build_model, splits, tmp_path):
    found = []
    for sparse in (True, False):
        folder = tmp_path / str(sparse)
        settings = config(sparse_embeddings=sparse)
        trainer = Trainer(build_model(seed=1), settings, output_dir=folder, seed=3)
        trainer.fit(splits["train"], validation=splits["validation"])
        checkpoint, _ = latest_checkpoint(folder / "checkpoints", trainer.run.identity)
        found.append(checkpoint.optimizer)
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-7)


def test_memory_runs_out_in_the_middle_of_a_step(build_model, splits, monkeypatch):
    """What was added to the table before is not there when the step is begun anew."""
    backward, calls, weights = Accelerator.backward, [], []

    def fail(accelerator, loss):
        calls.append(loss)
        if len(calls) == 6:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        backward(accelerator, loss)

    for is_short in (False, True):
        model = build_model(seed=1, dropout=0.0)
        if is_short:
            monkeypatch.setattr(Accelerator, "backward", fail)
        Trainer(model, config(micro_batch_tokens=100), seed=3).fit(splits["train"])
        weights.append(table_of(model).detach().clone())
    assert len(calls) > 6
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_words_that_training_has_not_seen_keep_their_vectors(build_model):
    model = build_model(seed=1)
    before = table_of(model).detach().clone()
    examples = Examples.from_lists(["good movie", "bad movie"] * 6, ["positive", "negative"] * 6)
    Trainer(model, config(weight_decay=0.0), seed=3).fit(examples)
    changed = (table_of(model) != before).any(dim=1).nonzero().flatten().tolist()
    ids = set(prepare_inputs(model, examples, None).tokens.ids.tolist())
    assert set(changed) == ids
