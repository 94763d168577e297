"""Hidden states above the lowest frozen layers: when they are kept, what is kept, and where."""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nlptl import Classifier, Examples, Trainer, TrainingConfig
from nlptl.model.inference import evaluating
from nlptl.training import boundary, mapped
from nlptl.training.boundary import cut_at_boundary
from nlptl.training.devices import open_accelerator
from nlptl.training.inputs import HiddenStates, Inputs, prepare_inputs
from tests.conftest import toy_rows


def examples(count: int = 24) -> Examples:
    return Examples.from_lists(*map(list, zip(*toy_rows(count), strict=True)))


@pytest.fixture
def cut(feature_cache: Path) -> Callable[..., Inputs]:
    """Return a function that cuts toy examples at the boundary of a model."""

    def run(model: Classifier, *, num_passes: int = 2, dtype: str = "float32") -> Inputs:
        return cut_at_boundary(
            model,
            prepare_inputs(model, examples(), None),
            open_accelerator("no"),
            num_passes=num_passes,
            dtype=dtype,
            folder=feature_cache,
        )

    return run


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_kept_are_the_stock_hidden_states(
    dtype: str, build_model: Callable[..., Classifier], cut: Callable[..., Inputs]
):
    model = build_model(freeze=1)
    inputs = cut(model, dtype=dtype)
    assert inputs.hidden is not None
    assert (inputs.hidden.depth, inputs.hidden.rows.dtype) == (1, getattr(torch, dtype))
    assert len(inputs.hidden.rows) == inputs.tokens.offsets[-1] == sum(inputs.tokens.lengths)
    indices = np.array([5, 0, 17])
    found = inputs.hidden.batch(indices, device=torch.device("cpu"))
    assert found.dtype == torch.float32
    for row, i in zip(found, indices, strict=True):
        ids = torch.from_numpy(inputs.tokens[i].astype(np.int64))[None]
        with evaluating(model):
            expected = model.network.bert(ids, output_hidden_states=True).hidden_states[1][0]
        tolerance = {"float32": {"rtol": 0, "atol": 1e-5}, "float16": {"rtol": 2**-11, "atol": 1e-5}}[dtype]
        torch.testing.assert_close(row[: len(expected)], expected, **tolerance)
        assert not row[len(expected) :].any()


def test_a_batch_is_padded_with_zeros():
    rows, offsets = torch.arange(1.0, 13.0).view(6, 2), np.array([0, 1, 4, 6])
    for dtype in (torch.float32, torch.float16):
        states = HiddenStates(1, rows.to(dtype), offsets)
        found = states.batch(np.array([2, 0, 1]), device=torch.device("cpu"))
        expected = [[[9, 10], [11, 12], [0, 0]], [[1, 2], [0, 0], [0, 0]], [[3, 4], [5, 6], [7, 8]]]
        assert torch.equal(found, torch.tensor(expected, dtype=torch.float32))
        assert torch.equal(states.batch(np.array([0]), device=torch.device("cpu")), rows[None, :1])


@pytest.mark.parametrize(
    ("settings", "depth"),
    [
        ({}, None),
        ({"freeze": "embeddings"}, None),
        ({"freeze": 1}, 1),
        ({"freeze": 2}, 2),
        ({"freeze": "encoder", "pooling": "attention"}, 2),
        ({"freeze": 2, "pooling": "mean", "layers": 2}, 1),
        ({"freeze": 2, "pooling": "mean", "layers": 1}, 2),
        ({"freeze": 2, "pooling": "mean", "layers": "mix"}, None),
        ({"freeze": 1, "train_only": "biases"}, 1),
        ({"train_only": "norms"}, None),
        ({"freeze": 1, "long_text": "chunks"}, None),
        ({"freeze": "encoder", "long_text": "chunks", "chunk_pooling": "attention"}, None),
    ],
    ids=str,
)
def test_depth(settings: dict, depth: int | None, build_model: Callable[..., Classifier], cut: Callable[..., Inputs]):
    hidden = cut(build_model(**settings)).hidden
    assert (None if hidden is None else hidden.depth) == depth


@pytest.mark.parametrize("num_passes", [0, 1])
def test_what_is_run_through_once_is_not_kept(
    num_passes: int,
    build_model: Callable[..., Classifier],
    cut: Callable[..., Inputs],
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO)
    assert cut(build_model(freeze=1), num_passes=num_passes).hidden is None
    assert not any(" once " in message for message in caplog.messages)
    Trainer(build_model(freeze=1), TrainingConfig(num_epochs=1)).fit(examples(), validation=examples(8))
    assert not any(" once " in message for message in caplog.messages)


def test_the_estimate_is_said(
    build_model: Callable[..., Classifier], cut: Callable[..., Inputs], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    inputs = cut(build_model(freeze=1), num_passes=7, dtype="float16")
    num_bytes = sum(inputs.tokens.lengths) * 32 * 2
    before, after = (message for message in caplog.messages if "layers" in message or " took " in message)
    size = f"{num_bytes / 1e6:,.0f} MB of hidden states, rounded to 11 bits"
    assert before == f"train: running layers 1 to 1 once for 7 passes, and keeping {size}"
    assert after.endswith(" s, which each of the other passes saves")


def test_what_is_too_large_for_memory_is_mapped_from_a_file_that_has_no_name(
    build_model: Callable[..., Classifier],
    cut: Callable[..., Inputs],
    monkeypatch: pytest.MonkeyPatch,
    feature_cache: Path,
):
    model = build_model(freeze=1)
    in_memory = cut(model).hidden
    monkeypatch.setattr(boundary, "MEMORY_SHARE", 0)
    in_file = cut(model).hidden
    assert torch.equal(in_file.rows, in_memory.rows)
    assert list(feature_cache.iterdir()) == []
    assert f"{feature_cache}/.nlptl-mapped-" in Path("/proc/self/maps").read_text()  # of this process, on Linux


def test_files_of_two_runs_with_the_same_seed_have_other_names(
    build_model: Callable[..., Classifier], cut: Callable[..., Inputs], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(boundary, "MEMORY_SHARE", 0)
    model, names = build_model(freeze=1), []
    real = mapped._create_file
    monkeypatch.setattr(mapped, "_create_file", lambda path, size: names.append(path.name) or real(path, size))
    for _ in range(2):
        torch.manual_seed(0)
        assert cut(model).hidden is not None
    assert len(set(names)) == 2


@pytest.mark.parametrize("reason", ["full", "a file", "forbidden"])
def test_without_room_everything_is_computed_in_every_pass(
    reason: str,
    build_model: Callable[..., Classifier],
    monkeypatch: pytest.MonkeyPatch,
    feature_cache: Path,
    caplog: pytest.LogCaptureFixture,
):
    config = TrainingConfig(num_epochs=2, batch_size=12, optimizer="sgd", learning_rate=0.1)
    expected = build_model(freeze=1)
    Trainer(expected, config).fit(examples())
    monkeypatch.setattr(boundary, "MEMORY_SHARE", 0)
    if reason == "full":
        monkeypatch.setattr(mapped, "ZEROS", Unwritable())
    elif reason == "a file":
        feature_cache.write_text("in the way")
    else:
        if os.geteuid() == 0:
            pytest.skip("nothing is forbidden to root")
        feature_cache.mkdir(mode=0o000)
    caplog.clear()
    model = build_model(freeze=1)
    Trainer(model, config).fit(examples())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        f"train: there is no space for them in memory or in {feature_cache}: computing them in every pass"
    ]
    assert reason != "full" or list(feature_cache.iterdir()) == []
    for one, two in zip(model.network.parameters(), expected.network.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


class Unwritable:
    """Zeros whose first piece is already too large for the disk."""

    def __len__(self) -> int:
        return 1024

    def __getitem__(self, _: slice) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")
