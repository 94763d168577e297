"""Time, memory and accuracy of a training against transformers' Trainer: all of the encoder, its top layers, or a head.

From texts in memory and a pretrained model folder to the trained model: loading and tokenizing included, imports not,
no evaluation in between; accuracy on the same test texts comes after the clock has stopped. Every measurement is a
process of its own, ours and the rival's in turn. Rotten Tomatoes, `sample:minilm`, batch size 32; needs no network.

Usage:
    python tests/benchmarks/training.py
    python tests/benchmarks/training.py --num-texts 1000 --only second
    python tests/benchmarks/training.py --num-texts 512 --num-epochs 2 --only full
"""

import os

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")

import argparse
import importlib.metadata
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

# Nothing else is imported up here: the peak memory of a process starts from that of the one that has started it.

BATCH_SIZE, MAX_LENGTH = 32, 256
SECOND_HEAD = 1000  # added to the seed
STOCK_HEAD_RATE, MEAN_HEAD_RATE, LAYERS_RATE, FULL_RATE = 3e-2, 5e-3, 2e-4, 1e-4  # README.md says how they were chosen
MARK = "RESULT "

Predict = Callable[[list[str]], list[str]]
"""Returns the labels of texts, by name."""


def train_ours(
    job: dict[str, Any],
    *,
    freeze: Any,
    rate: float,
    seed_offset: int = 0,
    batch_size: int = BATCH_SIZE,
    **settings: Any,
) -> Callable[[], Predict]:
    """Return what trains with nlptl; `seed_offset` gives a head of its own."""
    import_models()
    from nlptl import Classifier, Examples, Trainer, TrainingConfig

    seed = job["seed"] + seed_offset

    def train() -> Predict:
        config = TrainingConfig(num_epochs=job["num_epochs"], batch_size=batch_size, learning_rate=rate, **settings)
        model = Classifier.from_pretrained(job["model"], labels=job["names"], freeze=freeze, seed=seed)
        Trainer(model, config, seed=seed).fit(Examples.from_lists(job["texts"], job["labels"]))
        return lambda texts: [prediction.label for prediction in model.predict(texts)]

    return train


def train_stock(job: dict[str, Any], *, num_frozen: int | None, rate: float, **arguments: Any) -> Callable[[], Predict]:
    """Return what trains with transformers' Trainer; `num_frozen` of the lowest layers, None: all of the encoder.

    With -1 nothing is frozen, 0 is the embeddings; `arguments` are those of TrainingArguments.
    """
    import_models()
    from transformers import AutoModelForSequenceClassification, set_seed, trainer  # noqa: F401

    def train() -> Predict:
        set_seed(job["seed"])
        model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=len(job["names"]))
        encoder = model.base_model
        lowest = [encoder.embeddings, *encoder.encoder.layer]
        for part in [encoder] if num_frozen is None else lowest[: num_frozen + 1]:
            part.requires_grad_(False)
        return run_trainer(job, model, learning_rate=rate, **arguments)

    return train


def import_models() -> None:
    """Import what transformers imports when a model is first loaded: that is not on the clock."""
    import transformers.models.bert.modeling_bert
    import transformers.models.bert.tokenization_bert  # noqa: F401


def run_trainer(job: dict[str, Any], model: Any, **arguments: Any) -> Predict:
    """Train `model` with transformers' Trainer at its defaults, on token ids in memory; nothing is logged or saved."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    encodings = tokenizer(job["texts"], truncation=True, max_length=MAX_LENGTH)
    columns = {**encodings, "labels": [job["names"].index(label) for label in job["labels"]]}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in rows:
        row["length"] = len(row["input_ids"])  # which grouping by length would look for
    with tempfile.TemporaryDirectory() as out:
        settings = transformers.TrainingArguments(
            out,
            num_train_epochs=job["num_epochs"],
            seed=job["seed"],
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            **{"per_device_train_batch_size": BATCH_SIZE, **arguments},
        )
        trainer = transformers.Trainer(model, settings, train_dataset=rows, processing_class=tokenizer)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return lambda texts: _predict_stock(model, tokenizer, texts, job["names"])


def _predict_stock(model: Any, tokenizer: Any, texts: list[str], names: list[str]) -> list[str]:
    import torch

    model.eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    ids = [0] * len(texts)
    for start in range(0, len(texts), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        batch = tokenizer(
            [texts[i] for i in rows], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        with torch.no_grad():
            found = model(**batch).logits.argmax(dim=1).tolist()
        for i, label in zip(rows, found, strict=True):
            ids[i] = label
    return [names[i] for i in ids]


BEST = {"train_sampling_strategy": "group_by_length", "length_column_name": "length", "logging_nan_inf_filter": False}
"""What makes Trainer quickest on a CPU; its AdamW is fused anyway."""

# In the order in which they are run: ours and the rival's in turn, the second head after what warms its cache.
SYSTEMS: dict[str, Callable[[dict[str, Any]], Callable[[], Predict]]] = {
    "ours_frozen": partial(train_ours, freeze="encoder", rate=MEAN_HEAD_RATE),
    "trainer_frozen": partial(train_stock, num_frozen=None, rate=STOCK_HEAD_RATE),
    "ours_second": partial(train_ours, freeze="encoder", rate=MEAN_HEAD_RATE, seed_offset=SECOND_HEAD),
    "trainer_grouped": partial(
        train_stock, num_frozen=None, rate=STOCK_HEAD_RATE, train_sampling_strategy="group_by_length"
    ),
    "ours_long": partial(train_ours, freeze="encoder", rate=MEAN_HEAD_RATE),
    "trainer_long": partial(train_stock, num_frozen=None, rate=STOCK_HEAD_RATE),
    "ours_top1": partial(train_ours, freeze=5, rate=LAYERS_RATE),
    "trainer_top1": partial(train_stock, num_frozen=5, rate=LAYERS_RATE),
    "ours_top2": partial(train_ours, freeze=4, rate=LAYERS_RATE),
    "trainer_top2": partial(train_stock, num_frozen=4, rate=LAYERS_RATE),
    **{
        f"{name}{size}": system
        for size in (16, 32)
        for name, system in {
            "ours_full": partial(train_ours, freeze="nothing", rate=FULL_RATE, batch_size=size),
            "trainer_full": partial(train_stock, num_frozen=-1, rate=FULL_RATE, per_device_train_batch_size=size),
            "trainer_best": partial(
                train_stock, num_frozen=-1, rate=FULL_RATE, per_device_train_batch_size=size, **BEST
            ),
        }.items()
    },
    "ours_padded": partial(train_ours, freeze="nothing", rate=FULL_RATE, padding_free=False),
    "ours_slow": partial(train_ours, freeze="nothing", rate=FULL_RATE, quick_layers=False),
    "ours_plain": partial(train_ours, freeze="nothing", rate=FULL_RATE, padding_free=False, quick_layers=False),
}


@dataclass(frozen=True)
class Comparison:
    """One row of the table: what is compared, the two systems, and how many times less than the rival is asked for."""

    part: str  # as --only names it
    what: str
    ours: str
    rival: str
    target: float
    field: str = "seconds"


COMPARISONS = (
    *(
        Comparison("full", f"full fine-tuning, batches of {size}, Trainer {what}", f"ours_full{size}", rival, target)
        for size in (16, 32)
        for what, rival, target in (
            ("at its defaults", f"trainer_full{size}", 1.9),
            ("grouping by length", f"trainer_best{size}", 1.15),
        )
    ),
    Comparison("full", "peak memory, batches of 32", "ours_full32", "trainer_full32", 1.25, "peak_mb"),
    Comparison("full", "the same, above that after the imports", "ours_full32", "trainer_full32", 1.25, "above_mb"),
    Comparison("techniques", "padding_free=False", "ours_full32", "ours_padded", 1.03),
    Comparison("techniques", "quick_layers=False", "ours_full32", "ours_slow", 1.03),
    Comparison("techniques", "both", "ours_full32", "ours_plain", 1.03),
    Comparison("frozen", "frozen encoder", "ours_frozen", "trainer_frozen", 22),
    Comparison("frozen", "frozen encoder, rival groups by length", "ours_frozen", "trainer_grouped", 14),
    Comparison("second", "second head, warm cache", "ours_second", "trainer_frozen", 300),
    Comparison("top1", "top 1 of 6 layers", "ours_top1", "trainer_top1", 3.5),
    Comparison("top2", "top 2 of 6 layers", "ours_top2", "trainer_top2", 2.3),
    Comparison("memory", "peak memory, frozen encoder", "ours_frozen", "trainer_frozen", 2, "peak_mb"),
    Comparison("memory", "the same, above that after the imports", "ours_frozen", "trainer_frozen", 2, "above_mb"),
    Comparison("memory", "peak memory, frozen, 128 long reviews", "ours_long", "trainer_long", 2, "peak_mb"),
    Comparison("memory", "the same, above that after the imports", "ours_long", "trainer_long", 2, "above_mb"),
)


def work(system: str, job: dict[str, Any]) -> dict[str, Any]:
    """Train with one system in this process, and return what it took."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    train = SYSTEMS[system](job)
    after_imports = peak_mb()
    start = time.perf_counter()
    predict = train()
    seconds, peak = time.perf_counter() - start, peak_mb()
    found = predict(job["test_texts"])
    return {
        "seconds": seconds,
        "peak_mb": peak,
        "above_mb": peak - after_imports,
        "accuracy": statistics.mean(map(str.__eq__, found, job["test_labels"])),
        "threads": torch.get_num_threads(),
    }


def peak_mb() -> float:
    """Return the most memory that this process has had so far, in units of 1e6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def prepare(dataset: str, num_texts: int, num_test_texts: int) -> dict[str, Any]:
    """Return the texts, their labels and the model folder; as many as wanted of each split, drawn once for all."""
    import nlptl
    from nlptl.model.encoder import find_model

    splits = nlptl.load_splits(dataset)
    counts = {"train": num_texts, "test": min(num_test_texts, len(splits["test"]))}
    drawn = {
        name: splits[name].select(random.Random(0).sample(range(len(splits[name])), count))
        for name, count in counts.items()
    }
    train, test = drawn["train"], drawn["test"]
    return {
        "model": str(find_model("sample:minilm")),
        "names": list(splits.labels.names),
        "texts": train.texts,
        "labels": train.labels,
        "test_texts": test.texts,
        "test_labels": test.labels,
    }


def in_process(role: str, values: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Run this script as `role` in a fresh process and return its result."""
    path = cache / "job.json"
    path.write_text(json.dumps(values))
    command = [sys.executable, __file__, "worker", role, str(path)]
    environment = {**os.environ, "NLPTL_CACHE": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)  # no terminal, so no bars
    if done.returncode != 0:
        raise SystemExit(f"{done.stderr}\n{role} failed, see above")
    line = next(line for line in done.stdout.splitlines() if line.startswith(MARK))
    found: dict[str, Any] = json.loads(line[len(MARK) :])
    return found


def measure(jobs: dict[str, dict[str, Any]], systems: list[str], num_pairs: int) -> dict[str, list[dict[str, Any]]]:
    """Run every system in turn, `num_pairs` times, each time with another seed and an empty cache."""
    results: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for pair in range(num_pairs):
        with tempfile.TemporaryDirectory() as cache:
            for system in systems:
                job = jobs["long" if system.endswith("_long") else "short"]
                result = in_process(system, {**job, "seed": pair}, Path(cache))
                results[system].append(result)
                print(f"pair {pair + 1}, {system}: {result['seconds']:.2f} s", file=sys.stderr, flush=True)
    return results


def table(comparisons: list[Comparison], results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the medians with their range, the median ratio of the pairs, and the mean accuracies, in Markdown."""
    lines = ["| what | ours | transformers Trainer | ratio | target | accuracy, ours | accuracy, Trainer |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in comparisons:
        ours, rival = results[row.ours], results[row.rival]
        ratios = [b[row.field] / a[row.field] for a, b in zip(ours, rival, strict=True)]
        unit = "s" if row.field == "seconds" else "MB"
        cells = [row.what, *(_spread([r[row.field] for r in system], unit) for system in (ours, rival))]
        cells += [_spread(ratios, "x"), f">= {row.target:g} x"]
        if row.field == "seconds":
            cells += [f"{statistics.mean(r['accuracy'] for r in system):.1%}" for system in (ours, rival)]
        else:
            cells += ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], unit: str) -> str:
    digits = ".0f" if unit == "MB" else ".3g"
    return f"{statistics.median(values):{digits}} {unit} ({min(values):{digits}} to {max(values):{digits}})"


def conditions(flags: argparse.Namespace, *, threads: set[int]) -> str:
    """Return what was measured, when, on what machine and with which versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    packages = ("torch", "transformers", "accelerate", "tokenizers", "nlptl")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    what = (f"{flags.num_texts} texts", f"{flags.num_epochs} epochs", f"{flags.pairs} pairs")
    machine = (
        models[0] if models else platform.processor(),
        f"{os.cpu_count()} cores",
        f"{' and '.join(map(str, sorted(threads)))} threads",
    )
    software = (f"Python {platform.python_version()}", *versions)
    return "; ".join([*map(", ".join, (what, machine, software)), f"{datetime.now(UTC):%Y-%m-%d}"])


def main() -> None:
    """Measure what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = list(dict.fromkeys(row.part for row in COMPARISONS))
    parser.add_argument("--num-texts", type=int, default=400, help="training texts; ratios grow with them (400)")
    parser.add_argument("--num-epochs", type=int, default=10, help="epochs of every training (10)")
    parser.add_argument("--pairs", type=int, default=3, help="how often each system is run (3)")
    parser.add_argument("--only", choices=parts, help="one part of the table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    flags = parser.parse_args()

    rows = [row for row in COMPARISONS if flags.only in (None, row.part)]
    wanted = {system for row in rows for system in (row.ours, row.rival)}
    if "ours_second" in wanted:
        wanted.add("ours_frozen")  # which leaves the warm cache
    with tempfile.TemporaryDirectory() as folder:
        wishes = {
            "short": {"dataset": "sample:rotten_tomatoes", "num_texts": flags.num_texts, "num_test_texts": 10_000},
            "long": {"dataset": "sample:imdb", "num_texts": 128, "num_test_texts": 100},
        }
        jobs = {
            name: {
                **in_process("prepare", wish, Path(folder)),
                "num_epochs": flags.num_epochs if name == "short" else 2,
            }
            for name, wish in wishes.items()
        }
    results = measure(jobs, [system for system in SYSTEMS if system in wanted], flags.pairs)
    about = conditions(flags, threads={result["threads"] for system in results.values() for result in system})
    print(f"{about}\n\n{table(rows, results)}")
    if flags.json is not None:
        flags.json.write_text(json.dumps({"conditions": about, "results": results}, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        given = json.loads(Path(sys.argv[3]).read_text())
        print(MARK + json.dumps(prepare(**given) if sys.argv[2] == "prepare" else work(sys.argv[2], given)))
    else:
        main()
