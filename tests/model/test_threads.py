"""Several threads at once get the answers that each would get alone, bit for bit."""

import copy
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.utils import logging

from nlptl import Classifier, Examples, Regression, TextClassifier, Trainer, TrainingConfig
from nlptl.config import TransferConfig
from nlptl.model import quick
from tests.conftest import options

TEXTS = [f"a {'good' if i % 2 else 'bad , dull'} film " + "very " * (i % 9) + "story" * (i % 3) for i in range(20)]
LABELS = ["positive" if i % 2 else "negative" for i in range(20)]
THREADS = 8


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def _quick_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let linear layers be replaced in every pass, as on a CPU where MKL is slow."""
    monkeypatch.setattr(quick, "prefers_onednn", torch.backends.mkldnn.is_available)


def in_threads(call: Callable[[int], object], count: int, threads: int = THREADS) -> list[object]:
    """Return what `call` gives for each number, in order; all threads start at once."""
    barrier = threading.Barrier(threads)

    def work(thread: int) -> list[object]:
        barrier.wait()
        return [call(i) for i in range(thread, count, threads)]

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(work, range(threads)))
    return [parts[i % threads][i // threads] for i in range(count)]


def logits(model: Classifier, text: str) -> list[float]:
    return model.predict_logits([text]).flatten().tolist()


@pytest.fixture
def models(family_folder: Callable[[str], Path]) -> list[Classifier]:
    """Return models of two families, whose checkpoints have dropout 0.1, one of which has just been trained."""
    loaded = [Classifier.from_pretrained(family_folder(name), labels=LABELS[:2]) for name in ("bert", "deberta-v2")]
    Trainer(loaded[0], TrainingConfig(num_epochs=1)).fit(Examples.from_lists(TEXTS, LABELS))
    return loaded


@pytest.mark.parametrize("calls", [25, pytest.param(200, marks=pytest.mark.nightly)])
def test_two_models_predict_at_once(calls: int, models: list[Classifier]):
    alone = {(k, text): logits(copy.deepcopy(model), text) for k, model in enumerate(models) for text in TEXTS}
    jobs = [(i % 2, TEXTS[(i * 7 + i // 8) % len(TEXTS)]) for i in range(THREADS * calls)]
    found = in_threads(lambda i: logits(models[jobs[i][0]], jobs[i][1]), len(jobs))
    assert [job for job, each in zip(jobs, found, strict=True) if each != alone[job]] == []


@pytest.mark.parametrize("call", ["encode", "predict", "tokenize"])
@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
def test_other_calls(call: str, pairs: bool, tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS[:2], pairs=pairs, max_length=8)

    def answer(i: int) -> object:
        found = getattr(model, call)([TEXTS[i % 20]], [TEXTS[i // 4 % 20]] if pairs else [])
        return found.tolist() if call == "encode" else found[0].tolist() if call == "tokenize" else found

    alone = [answer(i) for i in range(48)]
    assert in_threads(answer, 48) == alone


def test_the_estimator_just_fitted(tiny_bert: Path):
    fitted = TextClassifier(str(tiny_bert), num_epochs=1, freeze="nothing").fit(TEXTS, LABELS)
    alone = TextClassifier(str(tiny_bert), num_epochs=1, freeze="nothing").fit(TEXTS, LABELS)
    expected = [alone.predict_proba([text]).tolist() for text in TEXTS]
    assert in_threads(lambda i: fitted.predict_proba([TEXTS[i % 20]]).tolist(), 80) == expected * 4


def test_who_calls_train_mode_back_gets_predictions_without_dropout(models: list[Classifier]):
    model, other = models[0], copy.deepcopy(models[0])
    expected = [logits(model, text) for text in TEXTS]
    other.train()
    assert in_threads(lambda i: logits(other, TEXTS[i % 20]), 80) == expected * 4
    assert not any(module.training for module in other.modules())


def test_a_model_is_saved_while_it_predicts(tiny_bert: Path, tmp_path: Path):
    """The last layer of a regression is saved on another scale than the one it has."""
    model = Classifier.from_pretrained(tiny_bert, task=Regression(("score",)))
    Trainer(model, TrainingConfig(num_epochs=1)).fit(Examples.from_lists(TEXTS, [30 + 5 * i for i in range(20)]))
    alone = [model.predict([text]) for text in TEXTS]

    def predict_or_save(i: int) -> object:
        if i % 20 == 0:
            model.save(tmp_path / str(i))
        return model.predict([TEXTS[i % 20]])

    assert in_threads(predict_or_save, 80) == alone * 4
    loaded = Classifier.from_pretrained(tmp_path / "0")
    np.testing.assert_allclose(loaded.predict_outputs(TEXTS), model.predict_outputs(TEXTS), rtol=1e-5)


def test_the_mode_after_loading_and_after_training(tiny_bert: Path, tmp_path: Path):
    model = Classifier.from_pretrained(
        tiny_bert, labels=LABELS[:2], lora_rank=2, transfer=TransferConfig(lora_dropout=0.5)
    )
    batch = {"input_ids": torch.tensor([[2, 9, 8, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(**batch), model(**batch))
    trainer = Trainer(model, TrainingConfig(num_epochs=1))
    trainer.estimate(Examples.from_lists(TEXTS, LABELS))
    assert not any(module.training for module in model.modules())
    modes = []
    model.network.register_forward_pre_hook(lambda *_: modes.append(model.training))
    trainer.fit(Examples.from_lists(TEXTS, LABELS), validation=Examples.from_lists(TEXTS[:4], LABELS[:4]))
    assert {*modes} == {True, False}
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(**batch), model(**batch))
    model.save(tmp_path / "saved")
    assert not any(module.training for module in Classifier.from_pretrained(tmp_path / "saved").modules())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_ends_early_leaves_eval_mode_and_a_free_lock(
    error: type[BaseException], tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS[:2])

    def fail(*_: object) -> None:
        assert model.training
        raise error

    handle = model.network.register_forward_hook(fail)
    with pytest.raises(error):
        Trainer(model, TrainingConfig(num_epochs=1, early_stopping=None)).fit(Examples.from_lists(TEXTS, LABELS))
    handle.remove()
    assert not any(module.training for module in model.modules())
    assert not any("forward" in module.__dict__ for module in model.modules())
    (found,) = in_threads(lambda i: model.predict([TEXTS[0]]), 1, threads=1)
    assert found == model.predict([TEXTS[0]])


def test_copies_have_a_lock_of_their_own(tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS[:2])
    other = copy.deepcopy(model)
    with model.lock:
        (found,) = in_threads(lambda i: logits(other, TEXTS[0]), 1, threads=1)
    assert found == logits(model, TEXTS[0])


def test_new_weights_obey_their_seed(tiny_bert: Path):
    verbosity, had_bars, filters = logging.get_verbosity(), logging.is_progress_bar_enabled(), [*warnings.filters]

    def head(seed: int) -> list[float]:
        settings = {"reinit_layers": 1} if seed % 2 else {"lora_rank": 2}
        network = Classifier.from_pretrained(tiny_bert, labels=LABELS[:2], seed=seed, **options(**settings)).network
        return [float(p.detach().double().abs().sum()) for p in network.parameters()]

    alone = [head(i) for i in range(4)] * 2
    state = torch.get_rng_state()
    assert in_threads(lambda i: head(i % 4), 8) == alone
    assert torch.equal(torch.get_rng_state(), state)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (verbosity, had_bars)
    assert warnings.filters == filters


SETTINGS = {"num_epochs": 2, "batch_size": 8}


@pytest.mark.parametrize(
    "settings",
    [
        {**SETTINGS, "freeze": "nothing", "learning_rate": 1e-3},
        {**SETTINGS, "dropout": 0.5, "hidden": 8},
        {"head": "logistic"},
    ],
    ids=["encoder", "head", "logistic"],
)
def test_trainings_obey_their_seed(settings: dict[str, object], tiny_bert: Path):
    """They take turns, micro-batch by micro-batch: dropout draws from a generator that all threads share."""

    def fit(seed: int) -> list[list[float]]:
        return TextClassifier(str(tiny_bert), seed=seed, **settings).fit(TEXTS, LABELS).predict_proba(TEXTS).tolist()

    alone, filters, state = [fit(seed) for seed in range(2)], [*warnings.filters], torch.get_rng_state()
    found = in_threads(lambda i: fit(i % 2), 8, threads=4)
    assert found == alone * 4
    assert torch.equal(torch.get_rng_state(), state)
    assert warnings.filters == filters


def test_predictions_wait_for_a_training_of_the_same_model(tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS[:2])
    before = [logits(model, text) for text in TEXTS]
    started = threading.Event()
    model.network.register_forward_pre_hook(lambda *_: started.set())
    training = threading.Thread(
        target=lambda: Trainer(model, TrainingConfig(num_epochs=3)).fit(Examples.from_lists(TEXTS, LABELS))
    )
    training.start()
    started.wait()
    found = [logits(model, text) for text in TEXTS]
    training.join()
    assert found == [logits(model, text) for text in TEXTS] != before
