"""What trains: nlptl and transformers' Trainer, from texts in memory and a model folder to the trained model.

Loading the model and tokenizing are on the clock, imports are not; neither side evaluates, logs or saves.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

from tests.benchmarks.measuring import Check, Job, System, device, quiet, share_equal

BATCH_SIZE = 32
SECOND_HEAD = 1000  # added to the seed
STOCK_HEAD_RATE, MEAN_HEAD_RATE, LAYERS_RATE, FULL_RATE = 3e-2, 5e-3, 2e-4, 1e-4  # README.md says how they were chosen

BEST = {"train_sampling_strategy": "group_by_length", "length_column_name": "length", "logging_nan_inf_filter": False}
"""What makes Trainer quickest on a CPU; its AdamW is fused anyway, and compiling takes longer than these trainings."""


def ours(
    job: Job,
    *,
    freeze: Any,
    rate: float,
    seed_offset: int = 0,
    batch_size: int = BATCH_SIZE,
    patched: dict[str, Any] | None = None,
    keeps_memory: bool = False,
    **settings: Any,
) -> Callable[[], Check]:
    """Return what trains with nlptl.

    `seed_offset` gives a head of its own, `patched` names what is left out; `keeps_memory` sets the allocator as the
    command line does.
    """
    import_models()
    if keeps_memory:
        from nlptl.cli import _keep_freed_memory

        _keep_freed_memory()
    from nlptl import Classifier, Examples, Trainer, TrainingConfig

    seed = job["seed"] + seed_offset

    def train() -> Check:
        config = TrainingConfig(num_epochs=job["num_epochs"], batch_size=batch_size, learning_rate=rate, **settings)
        model = Classifier.from_pretrained(
            job["model"], labels=job["names"], freeze=freeze, max_length=job["max_length"], seed=seed
        )
        trainer = Trainer(model, config, seed=seed)
        with times_of_steps() as times, ExitStack() as stack:
            for name, value in (patched or {}).items():
                stack.enter_context(mock.patch(name, value))
            trainer.fit(Examples.from_lists(job["texts"], job["labels"]))
        return lambda: {
            "accuracy": share_equal([each.label for each in model.predict(job["test_texts"])], job["test_labels"]),
            "gflops": _gflops(model, job, times, batch_size),
            "texts_per_s": _texts_per_s(job, times),
        }

    return train


def stock(job: Job, *, num_frozen: int | None, rate: float, **arguments: Any) -> Callable[[], Check]:
    """Return what trains with transformers' Trainer; `num_frozen` of the lowest layers, None: all of the encoder.

    With -1 nothing is frozen, 0 is the embeddings; `arguments` are those of TrainingArguments.
    """
    import_models()
    from transformers import AutoModelForSequenceClassification, set_seed, trainer  # noqa: F401

    def train() -> Check:
        set_seed(job["seed"])
        model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=len(job["names"]))
        encoder = model.base_model
        lowest = [encoder.embeddings, *encoder.encoder.layer]
        for part in [encoder] if num_frozen is None else lowest[: num_frozen + 1]:
            part.requires_grad_(False)
        return run_trainer(job, model, learning_rate=rate, **arguments)

    return train


def _dropout(states: Any, probability: float) -> Any:
    import torch

    return torch.nn.functional.dropout(states, probability)


def import_models() -> None:
    """Import what transformers imports when a model is first loaded: that is not on the clock."""
    import transformers.models.bert.modeling_bert
    import transformers.models.bert.tokenization_bert
    import transformers.models.deberta_v2.modeling_deberta_v2
    import transformers.models.mpnet.modeling_mpnet  # noqa: F401

    quiet()


def run_trainer(job: Job, model: Any, *, pad_to_multiple_of: int | None = None, **arguments: Any) -> Check:
    """Train `model` with transformers' Trainer at its defaults, on token ids in memory; nothing is logged or saved."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    encodings = tokenizer(job["texts"], truncation=True, max_length=job["max_length"])
    columns = {**encodings, "labels": [job["names"].index(label) for label in job["labels"]]}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in rows:
        row["length"] = len(row["input_ids"])  # which grouping by length would look for
    with tempfile.TemporaryDirectory() as out:
        settings = transformers.TrainingArguments(
            out,
            num_train_epochs=job["num_epochs"],
            seed=job["seed"],
            use_cpu=device() == "cpu",
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            **{"per_device_train_batch_size": BATCH_SIZE, **arguments},
        )
        collator = transformers.DataCollatorWithPadding(tokenizer, pad_to_multiple_of=pad_to_multiple_of)
        trainer = transformers.Trainer(
            model, settings, train_dataset=rows, processing_class=tokenizer, data_collator=collator
        )
        trainer.remove_callback(transformers.PrinterCallback)
        with times_of_steps() as times:
            trainer.train()
    return lambda: {
        "accuracy": share_equal(predict_stock(model, tokenizer, job), job["test_labels"]),
        "texts_per_s": _texts_per_s(job, times),
    }


def predict_stock(model: Any, tokenizer: Any, job: Job) -> list[str]:
    """Return the labels that a stock model gives the test texts."""
    import torch

    model.eval()
    texts = job["test_texts"]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    ids = [0] * len(texts)
    for start in range(0, len(texts), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        batch = tokenizer(
            [texts[i] for i in rows], padding=True, truncation=True, max_length=job["max_length"], return_tensors="pt"
        )
        with torch.no_grad():
            found = model(**batch.to(model.device)).logits.argmax(dim=1).tolist()
        for i, label in zip(rows, found, strict=True):
            ids[i] = label
    return [job["names"][i] for i in ids]


class times_of_steps:  # noqa: N801
    """Within it, the times at which any torch optimizer ends a step are noted."""

    def __enter__(self) -> list[float]:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        times: list[float] = []
        self.hook = register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
        return times

    def __exit__(self, *_: Any) -> None:
        self.hook.remove()


def _gflops(model: Any, job: Job, times: list[float], batch_size: int) -> float:
    """Return 1e9 floating point operations a second of matrix products in the steps but the first, of real tokens.

    Two for each weight and token forwards, twice that backwards; in the last layer, keys and values of all tokens and
    the rest of the first tokens alone, as far as nlptl needs them. Embeddings, norms and the optimizer count nothing.
    """
    if len(times) < 2:
        return 0.0
    config = model.network.config
    lengths = model.tokenize(job["texts"]).lengths.astype(float)
    width, inner, num_layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    linear = 4 * width**2 + 2 * width * inner
    whole = linear * lengths.mean() + 2 * width * (lengths**2).mean()
    last = 2 * width**2 * lengths.mean() + (linear - 2 * width**2) + 2 * width * lengths.mean()
    pooler = width**2
    of_a_text = 6 * ((num_layers - 1) * whole + last + pooler)
    return float(of_a_text * batch_size * (len(times) - 1) / (times[-1] - times[0]) / 1e9)


def _texts_per_s(job: Job, times: list[float]) -> float:
    """Return the texts trained on in a second of the last epoch, or of the only one but for its first step.

    What comes before has compiling and warming up in it. On a GPU, steps may end a little after the host has said so.
    """
    per_epoch = len(times) // job["num_epochs"]
    counted = min(per_epoch, len(times) - 1)
    if counted == 0:
        return 0.0
    return float(len(job["texts"]) * counted / per_epoch / (times[-1] - times[-1 - counted]))


def _full(batch_size: int, job: str = "short", suffix: str = "") -> dict[str, System]:
    sized = {"num_frozen": -1, "rate": FULL_RATE, "per_device_train_batch_size": batch_size}
    return {
        f"ours_full{batch_size}{suffix}": System(
            job, partial(ours, freeze="nothing", rate=FULL_RATE, batch_size=batch_size)
        ),
        f"trainer_full{batch_size}{suffix}": System(job, partial(stock, **sized)),
        f"trainer_best{batch_size}{suffix}": System(job, partial(stock, **sized, **BEST)),
    }


FROZEN = partial(ours, freeze="encoder", rate=MEAN_HEAD_RATE)
STOCK_FROZEN = partial(stock, num_frozen=None, rate=STOCK_HEAD_RATE)
WHOLE = partial(ours, freeze="nothing", rate=FULL_RATE)

SYSTEMS: dict[str, System] = {
    "ours_frozen": System("short", FROZEN),
    "trainer_frozen": System("short", STOCK_FROZEN),
    "ours_second": System("short", partial(FROZEN, seed_offset=SECOND_HEAD)),  # finds what ours_frozen has cached
    "trainer_grouped": System("short", partial(STOCK_FROZEN, train_sampling_strategy="group_by_length")),
    "ours_long": System("long", FROZEN),
    "trainer_long": System("long", STOCK_FROZEN),
    "ours_top1": System("short", partial(ours, freeze=5, rate=LAYERS_RATE)),
    "trainer_top1": System("short", partial(stock, num_frozen=5, rate=LAYERS_RATE)),
    "ours_top2": System("short", partial(ours, freeze=4, rate=LAYERS_RATE)),
    "trainer_top2": System("short", partial(stock, num_frozen=4, rate=LAYERS_RATE)),
    **_full(16),
    **_full(32),
    **{
        name: system
        for family in ("bert", "deberta", "mpnet")
        for name, system in _full(32, family, f"_{family}").items()
    },
    "ours_padded": System("short", partial(WHOLE, padding_free=False)),
    "ours_slow": System("short", partial(WHOLE, quick_layers=False)),
    "ours_plain": System("short", partial(WHOLE, padding_free=False, quick_layers=False)),
    **{
        f"ours_without_{name}": System("short", partial(WHOLE, patched=patched))
        for name, patched in {
            "quick_dropout": {f"nlptl.model.{module}.drop": _dropout for module in ("quick", "packing")},
            "first_token": {"nlptl.model.packing.ALL_TOKENS": ("bert",)},
        }.items()
    },
    "ours_kept_memory": System("short", partial(WHOLE, keeps_memory=True)),
    "ours_padded_deberta": System("deberta", partial(WHOLE, padding_free=False)),
    "ours_checkpointing": System("short", partial(WHOLE, gradient_checkpointing=True)),
}
