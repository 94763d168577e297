"""When memory runs out, micro-batches get smaller; what is learned stays the same."""

import logging
import shutil

import pytest
import torch
from accelerate import Accelerator

from nlptl import Classifier, Examples, ResourceError, Run, Trainer, TrainingConfig
from nlptl.training.inputs import Inputs
from nlptl.training.step import Stepper

LABELS = ("negative", "positive")
MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB."
SETTINGS = {"num_epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "micro_batch_tokens": 64}


@pytest.fixture(scope="module")
def examples() -> Examples:
    """Return 24 texts of 3 to 14 tokens: six steps of several micro-batches each."""
    words = ["good", "bad", "film", "story", "great", "dull", "plot", "was", "not", "very"]
    texts = [" ".join(words[(i * 7 + 3 * k) % 10] for k in range(1 + (i * 5) % 12)) for i in range(24)]
    return Examples.from_lists(texts, [LABELS[i % 3 > 0] for i in range(24)])


@pytest.fixture
def fit(tiny_bert, examples):
    """Train in float64 and return the weights; without dropout, unless another one is asked for."""

    def run(*, dropout=0.0, output_dir=None, **settings):
        model = Classifier.from_pretrained(tiny_bert, labels=LABELS, dropout=dropout).double()
        Trainer(model, TrainingConfig(**{**SETTINGS, **settings}), output_dir=output_dir).fit(examples)
        return {name: parameter.detach() for name, parameter in model.network.named_parameters()}

    return run


@pytest.fixture
def run_out(monkeypatch):
    """Arrange that memory runs out at the n-th forward or backward pass, or in each of more than `limit` tokens."""

    def arrange(place, count=0, limit=10**9, error=None):
        calls = []
        real = Accelerator.backward if place == "backward" else Stepper._losses

        def call(self, batch, *args, **kwargs):
            calls.append(place)
            tokens = 0 if place == "backward" else batch["input_ids"].numel()
            if len(calls) == count or tokens > limit:
                raise error or torch.OutOfMemoryError(MESSAGE)
            return real(self, batch, *args, **kwargs)

        owner, name = (Accelerator, "backward") if place == "backward" else (Stepper, "_losses")
        monkeypatch.setattr(owner, name, call)
        return calls

    return arrange


def assert_close(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert (found[name] - weight).abs().max() <= tolerance * max(1, weight.abs().max()), name


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_at_any_micro_batch_the_weights_are_those_of_the_small_budget(place, fit, run_out, monkeypatch, caplog):
    settings = {"optimizer": "sgd"}
    small = fit(**{**SETTINGS, **settings, "micro_batch_tokens": 32})
    calls = run_out(place)
    fit(**settings)
    num_calls = len(calls)
    assert num_calls == 12
    for count in range(1, num_calls + 1):
        monkeypatch.undo()
        caplog.clear()
        run_out(place, count)
        assert_close(fit(**settings), small)
        assert caplog.text.count("out of memory: repeating the step with micro-batches of at most 32 tokens") == 1


def test_with_dropout_from_the_first_step_on_they_are_the_same_bytes(fit, run_out):
    small = fit(dropout=0.1, micro_batch_tokens=32)
    run_out("forward", 2)
    found = fit(dropout=0.1)
    assert all(torch.equal(found[name], weight) for name, weight in small.items())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("could not create a primitive"),
        MemoryError(),
    ],
    ids=["torch", "oneDNN", "python"],
)
def test_memory_of_the_host(error, fit, run_out, caplog):
    run_out("forward", limit=20, error=error)
    fit()
    assert caplog.text.count("out of memory: repeating the step") == 2  # 64 -> 32 -> 16
    assert "of at most 16 tokens" in caplog.text


def test_memory_that_runs_out_before_the_forward_pass(fit, monkeypatch, caplog):
    real = Inputs.batch

    def batch(self, indices, **settings):
        if len(indices) > 2:
            raise MemoryError
        return real(self, indices, **settings)

    expected = fit(optimizer="sgd")
    monkeypatch.setattr(Inputs, "batch", batch)
    assert_close(fit(optimizer="sgd"), expected)
    assert "out of memory: repeating the step with micro-batches of at most 32 tokens" in caplog.text


def test_memory_that_runs_out_in_a_frozen_encoder(tiny_bert, examples, monkeypatch):
    def train():
        model = Classifier.from_pretrained(tiny_bert, labels=LABELS, freeze="encoder")
        Trainer(model, TrainingConfig(num_epochs=2, batch_size=8, optimizer="sgd", cache=False)).fit(examples)
        return {name: parameter.detach() for name, parameter in model.network.named_parameters()}

    expected, sizes = train(), []
    monkeypatch.setattr(torch.nn.Embedding, "forward", limited(torch.nn.Embedding.forward, sizes))
    assert_close(train(), expected, tolerance=1e-5)
    assert max(sizes) > 4


def test_other_errors_are_not_taken_for_it(fit, run_out):
    run_out("forward", 3, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        fit()


def test_a_single_text_that_does_not_fit(fit, run_out):
    run_out("forward", limit=4)
    with pytest.raises(ResourceError, match=r"Out of memory with a single text of \d+ tokens: CUDA out of"):
        fit()


def test_what_fitted_is_kept_when_a_run_is_resumed(tiny_bert, examples, run_out, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = TrainingConfig(**{**SETTINGS, "num_epochs": 3, "micro_batch_tokens": 64})

    def train(*, resume=False):
        model = Classifier.from_pretrained(tiny_bert, labels=LABELS, dropout=0.1)
        run = Run.open(tmp_path / "run", config, resume=resume)
        Trainer(model, config, output_dir=run).fit(examples)
        return (tmp_path / "run/model/model.safetensors").read_bytes()

    run_out("forward", 2)
    whole = train()
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "run/checkpoints/step-000009")
    assert train(resume=True) == whole
    assert "resuming after step 6" in caplog.messages


def test_evaluation_goes_on_in_halves(fit, examples, tiny_bert, monkeypatch):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS).eval()
    expected = model.predict_probabilities(examples.texts)
    real = Classifier.forward

    def forward(self, input_ids=None, *args, **kwargs):
        if input_ids is not None and len(input_ids) > 2:
            raise torch.OutOfMemoryError(MESSAGE)
        return real(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(Classifier, "forward", forward)
    assert torch.allclose(model.predict_probabilities(examples.texts), expected, atol=1e-6)


@pytest.mark.parametrize("freeze", ["encoder", 1])
def test_what_is_frozen_is_computed_in_halves(freeze, tiny_bert, examples, monkeypatch, tmp_path):
    def train():
        model = Classifier.from_pretrained(tiny_bert, labels=LABELS, freeze=freeze, dropout=0.0)
        Trainer(model, TrainingConfig(num_epochs=2, batch_size=8, learning_rate=1e-2, optimizer="sgd")).fit(examples)
        return {name: parameter.detach() for name, parameter in model.network.named_parameters()}

    expected, sizes = train(), []
    monkeypatch.setattr(torch.nn.Embedding, "forward", limited(torch.nn.Embedding.forward, sizes))
    monkeypatch.setenv("NLPTL_CACHE", str(tmp_path))
    assert_close(train(), expected, tolerance=1e-5)
    assert max(sizes) > 4


def limited(embed, sizes):
    """Return `embed`, for which there is memory for four texts at a time where no gradients are computed."""

    def forward(self, ids):
        if not torch.is_grad_enabled():
            sizes.append(len(ids))
            if len(ids) > 4:
                raise torch.OutOfMemoryError(MESSAGE)
        return embed(self, ids)

    return forward
