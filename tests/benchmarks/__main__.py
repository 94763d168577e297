"""Time, memory and accuracy of nlptl against what a user would pick instead. One command prints one table.

Every measurement is a process of its own, ours and the rivals' in turn; the machine's own peak in matrix products comes
first in each turn. Real weights and texts come from Python packages: nothing here needs a network.

Usage:
    python -m tests.benchmarks --cpu                                    # every part that --only does not have to name
    python -m tests.benchmarks --cpu --only full predict --pairs 5      # some parts of it
    python -m tests.benchmarks --cpu --only frozen --num-epochs 10 --num-texts 400
    python -m tests.benchmarks --gpu                                    # on a CUDA device, in bf16
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import importlib.metadata
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks import gpu, peak, predictions, starts, trainings
from tests.benchmarks.measuring import MARK, RATES, Comparison, Job, Result, System, in_process, measure, work

SYSTEMS: dict[str, System] = {
    **peak.SYSTEMS,
    **starts.SYSTEMS,
    **trainings.SYSTEMS,
    **predictions.SYSTEMS,
    **gpu.SYSTEMS,
}

COMPARISONS = (
    *(
        Comparison("full", f"full fine-tuning, batches of {size}, {what}", f"ours_full{size}", f"{rival}{size}", target)
        for size in (16, 32)
        for what, rival, target in (
            ("Trainer at its defaults", "trainer_full", 1.9),
            ("Trainer at its best", "trainer_best", 1.15),
        )
    ),
    Comparison(
        "full", "peak memory, batches of 32, Trainer at its defaults", "ours_full32", "trainer_full32", 1.4, "peak_mb"
    ),
    Comparison("full", "the same, above that after the imports", "ours_full32", "trainer_full32", 1.25, "above_mb"),
    Comparison("shapes", "share of the peak in matrix products, bert-base", "ours_full32_bert", "peak", 0.7, "gflops"),
    Comparison(
        "shapes", "full fine-tuning, bert-base, Trainer at its best", "ours_full32_bert", "trainer_best32_bert", 1.15
    ),
    Comparison("shapes", "the same, deberta-v3-xsmall", "ours_full32_deberta", "trainer_best32_deberta", 1.3),
    Comparison("shapes", "the same, mpnet-base", "ours_full32_mpnet", "trainer_best32_mpnet", 1.3),
    Comparison("encode", "encode, sentence-transformers", "ours_encode", "sentence_transformers", 1.2),
    Comparison("predict", "predict, pipeline at its defaults", "ours_predict", "pipeline_default", 3),
    Comparison("predict", "predict, pipeline, sorted batches of 32", "ours_predict", "pipeline_sorted", 1.3),
    Comparison("predict", "predict, ONNX Runtime, sorted batches of 32", "ours_predict", "onnx_sorted", 1),
    Comparison(
        "start", "command to first optimizer step, warm caches, Trainer script", "ours_start", "trainer_start", 2
    ),
    Comparison(
        "whole", "a frozen run on 1,000 texts, from command to report, Trainer script", "ours_whole", "trainer_whole", 9
    ),
    Comparison("start", "nlptl --help", "ours_help", None, 0.15),
    Comparison("techniques", "padding_free=False", "ours_full32", "ours_padded", 1.03),
    Comparison("techniques", "quick_layers=False", "ours_full32", "ours_slow", 1.03),
    Comparison("techniques", "both", "ours_full32", "ours_plain", 1.03),
    Comparison("techniques", "memory that is freed is kept, as by commands", "ours_kept_memory", "ours_full32", 1.03),
    Comparison("techniques", "with torch's dropout", "ours_full32", "ours_without_quick_dropout", 1.03),
    Comparison("techniques", "all tokens in the last layer", "ours_full32", "ours_without_first_token", 1.03),
    Comparison(
        "techniques", "padding_free=False, deberta-v3-xsmall", "ours_full32_deberta", "ours_padded_deberta", 1.03
    ),
    Comparison("techniques", "gradient_checkpointing=True", "ours_full32", "ours_checkpointing", 0.6),
    Comparison(
        "techniques",
        "its peak memory, above that after the imports",
        "ours_full32",
        "ours_checkpointing",
        0.8,
        "above_mb",
    ),
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

BY_DEVICE = {"cpu": COMPARISONS, "gpu": gpu.COMPARISONS}

DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {
        "only": ["full", "shapes", "encode", "predict", "start", "whole"],
        "num_texts": 512,
        "num_steps": 6,
        "num_predicted": 8000,
        "pairs": 3,
    },
    "gpu": {
        "only": ["gpu-full", "gpu-long", "gpu-compiled", "gpu-mfu", "gpu-encode", "gpu-predict"],
        "num_texts": 2048,
        "num_steps": 64,
        "num_predicted": 2000,
        "pairs": 1,
    },
}
"""Flags that differ; those of a GPU are meant for ten minutes."""

PEAKS = {"cpu": "peak", "gpu": "gpu_peak"}

BEFORE = {"ours_second": "ours_frozen", "ours_start": "ours_start_cold", "trainer_start": "trainer_start_cold"}
"""By system, the one that leaves it a warm cache."""


def table(comparisons: list[Comparison], results: dict[str, list[Result]]) -> str:
    """Return the medians with their range, the median ratio of the pairs, and the mean accuracies, in Markdown."""
    lines = [
        "| what, against what | ours | rival | ratio | target | accuracy, ours | rival |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in comparisons:
        ours = results[row.ours]
        cells = [row.what, _spread([r[row.field] for r in ours], row.field)]
        if row.rival is None:
            cells += ["", "", f"<= {row.target:g} s", "", ""]
        else:
            rival = results[row.rival]
            better = [(a, b) if row.field in RATES else (b, a) for a, b in _values(row.field, ours, rival)]
            cells += [_spread([r[row.field] for r in rival], row.field), _spread([a / b for a, b in better], "x")]
            cells += [f">= {row.target:g} x"]
            has_accuracy = row.field in ("seconds", "texts_per_s")
            cells += [_mean_accuracy(system) if has_accuracy else "" for system in (ours, rival)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _values(field: str, ours: list[Result], rival: list[Result]) -> list[tuple[float, float]]:
    return [(a[field], b[field]) for a, b in zip(ours, rival, strict=True)]


def _mean_accuracy(results: list[Result]) -> str:
    found = [result["accuracy"] for result in results if "accuracy" in result]
    return f"{statistics.mean(found):.1%}" if found else ""


def _spread(values: list[float], field: str) -> str:
    megabytes = dict.fromkeys(("peak_mb", "above_mb", "gpu_mb"), "MB")
    unit = {"seconds": "s", "gflops": "GFLOP/s", "texts_per_s": "texts/s", **megabytes}.get(field, field)
    digits = ".3g" if unit in ("s", "x") else ".0f"
    return f"{statistics.median(values):{digits}} {unit} ({min(values):{digits}} to {max(values):{digits}})"


def conditions(flags: argparse.Namespace, results: dict[str, list[Result]], *, gpu_name: str | None) -> str:
    """Return what was measured, when, on what machine and with which versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    packages = ("torch", "transformers", "accelerate", "tokenizers", "sentence-transformers", "onnxruntime", "nlptl")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages if _is_installed(name)]
    what = (
        f"{flags.num_texts:,} texts, {flags.num_epochs} epochs",
        f"{flags.num_predicted:,} to predict",
        f"{flags.pairs} pairs",
    )
    machine = [] if gpu_name is None else [gpu_name]
    machine += [models[0] if models else platform.processor(), f"{os.cpu_count()} cores"]
    machine += [_spread([r["gflops"] for r in results[PEAKS[flags.device]]], "gflops") + " in matrix products"]
    software = (f"Python {platform.python_version()}", *versions)
    return "; ".join([*map(", ".join, (what, machine, software)), f"{datetime.now(UTC):%Y-%m-%d}"])


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def wishes(flags: argparse.Namespace, folder: str) -> dict[str, dict[str, Any]]:
    """Return what each job is to be made of."""
    reviews = {"kind": "drawn", "dataset": "sample:rotten_tomatoes", "num_test_texts": 10_000}
    shape = {"kind": "shaped", "dataset": "sample:rotten_tomatoes", "num_texts": 32 * flags.num_steps, "folder": folder}
    of_shapes = {name: {**shape, "shape": name, "num_epochs": 1} for name in ("bert", "deberta", "mpnet")}
    bert = {**shape, "shape": "bert", "num_epochs": flags.num_epochs}
    to_predict = {"kind": "to_predict", "num_texts": flags.num_predicted, "folder": folder}
    return {
        "none": {"kind": "nothing"},
        "short": {**reviews, "num_texts": flags.num_texts, "num_epochs": flags.num_epochs},
        "long": {"kind": "drawn", "dataset": "sample:imdb", "num_texts": 128, "num_test_texts": 100, "num_epochs": 2},
        **of_shapes,
        "encode": {"kind": "to_encode", "num_texts": flags.num_predicted},
        "predict": to_predict,
        "gpu_bert": bert,
        "gpu_long": {**bert, "dataset": "sample:imdb", "max_length": 512},
        "gpu_predict": {**to_predict, "with_onnx": False},
        "run": {"kind": "to_run", "num_texts": 1000, "num_others": 300, "folder": folder},
        "start": {"kind": "to_start", "num_texts": flags.num_predicted, "folder": folder},
    }


def parse() -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {device: list(dict.fromkeys(row.part for row in rows)) for device, rows in BY_DEVICE.items()}

    def count(name: str, help: str) -> None:
        by_device = "; with --gpu ".join(str(values[name]) for values in DEFAULTS.values())
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{help} ({by_device})")

    where = parser.add_mutually_exclusive_group(required=True)
    for device in BY_DEVICE:
        where.add_argument(
            f"--{device}", action="store_const", dest="device", const=device, help=f"measure on a {device.upper()}"
        )
    parser.add_argument("--only", choices=sum(parts.values(), []), nargs="+", help="parts of the table")
    count("num_texts", "texts to train on; ratios grow with them")
    parser.add_argument("--num-epochs", type=int, default=2, help="epochs of a training (2)")
    count("num_steps", "steps an epoch of the shapes with random weights, in batches of 32")
    count("num_predicted", "texts to predict and encode")
    count("pairs", "how often each system is run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    parser.set_defaults(**DEFAULTS[parser.parse_args().device])
    flags = parser.parse_args()
    if others := set(flags.only) - set(parts[flags.device]):
        parser.error(f"--{flags.device} measures {', '.join(parts[flags.device])}; found --only {' '.join(others)}")
    return flags


def main() -> None:
    """Measure what was asked for and print the table."""
    flags = parse()
    if flags.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    rows = [row for row in BY_DEVICE[flags.device] if row.part in flags.only]
    wanted = {name for row in rows for name in (row.ours, row.rival) if name is not None}
    wanted |= {BEFORE[name] for name in wanted if name in BEFORE} | {PEAKS[flags.device]}
    systems = {name: system for name, system in SYSTEMS.items() if name in wanted}
    with tempfile.TemporaryDirectory() as folder:
        gpu_name = in_process("gpu", {}, Path(folder))["name"] if flags.device == "gpu" else None
        if flags.device == "gpu" and gpu_name is None:
            raise SystemExit("Expected a CUDA device for --gpu, found none. Pass --cpu.")
        needed = {system.job for system in systems.values()}
        made = wishes(flags, folder).items()
        jobs: dict[str, Job] = {name: in_process("job", wish, Path(folder)) for name, wish in made if name in needed}
        results = measure(systems, jobs, num_pairs=flags.pairs)
    about = conditions(flags, results, gpu_name=gpu_name)
    print(f"{about}\n\n{table(rows, results)}")
    if flags.json is not None:
        flags.json.write_text(json.dumps({"conditions": about, "results": results}, indent=1))


def as_worker(role: str, path: Path) -> None:
    """Do in this process what `in_process` has asked for."""
    given = json.loads(path.read_text())
    found: Result
    if role == "job":
        from tests.benchmarks import jobs

        make: Callable[..., Job] = jobs.make
        found = make(**{key: value for key, value in given.items() if key != "started"})
    elif role == "gpu":
        found = {"name": gpu.device_name()}
    else:
        found = work(SYSTEMS[role], given)
    print(MARK + json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        as_worker(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
