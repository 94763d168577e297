"""Time, memory and accuracy of nlptl against what a user would pick instead. One command prints one table.

Every measurement is a process of its own, ours and the rivals' in turn; the machine's own peak in matrix products comes
first in each turn. Real weights and texts come from Python packages: nothing here needs a network.

Usage:
    python -m tests.benchmarks --cpu                                    # every part that --only does not have to name
    python -m tests.benchmarks --cpu --only full predict --pairs 5      # some parts of it
    python -m tests.benchmarks --cpu --only frozen --num-epochs 10 --num-texts 400
"""

import os

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")

import argparse
import importlib.metadata
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks import peak, predictions, starts, trainings
from tests.benchmarks.measuring import MARK, Job, Result, System, in_process, measure, work

SYSTEMS: dict[str, System] = {**peak.SYSTEMS, **starts.SYSTEMS, **trainings.SYSTEMS, **predictions.SYSTEMS}


@dataclass(frozen=True)
class Comparison:
    """One row of the table: what is compared, and how many times better than the rival is asked for.

    Without a rival, `target` is the limit of what is measured. More is better where `field` is "gflops".
    """

    part: str  # as --only names it
    what: str
    ours: str
    rival: str | None
    target: float
    field: str = "seconds"


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
        "full", "peak memory, batches of 32, Trainer at its defaults", "ours_full32", "trainer_full32", 1.25, "peak_mb"
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
    Comparison("start", "nlptl --help", "ours_help", None, 0.15),
    Comparison("techniques", "padding_free=False", "ours_full32", "ours_padded", 1.03),
    Comparison("techniques", "quick_layers=False", "ours_full32", "ours_slow", 1.03),
    Comparison("techniques", "both", "ours_full32", "ours_plain", 1.03),
    Comparison("techniques", "THP_MEM_ALLOC_ENABLE=0", "ours_full32", "ours_small_pages", 1.03),
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

CPU_PARTS = ("full", "shapes", "encode", "predict", "start")
"""What --cpu shows where nothing else is said."""

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
            better = [(a, b) if row.field == "gflops" else (b, a) for a, b in _values(row.field, ours, rival)]
            cells += [_spread([r[row.field] for r in rival], row.field), _spread([a / b for a, b in better], "x")]
            cells += [f">= {row.target:g} x"]
            cells += [_mean_accuracy(system) if row.field == "seconds" else "" for system in (ours, rival)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _values(field: str, ours: list[Result], rival: list[Result]) -> list[tuple[float, float]]:
    return [(a[field], b[field]) for a, b in zip(ours, rival, strict=True)]


def _mean_accuracy(results: list[Result]) -> str:
    found = [result["accuracy"] for result in results if "accuracy" in result]
    return f"{statistics.mean(found):.1%}" if found else ""


def _spread(values: list[float], field: str) -> str:
    unit = {"seconds": "s", "peak_mb": "MB", "above_mb": "MB", "gflops": "GFLOP/s"}.get(field, field)
    digits = ".3g" if unit in ("s", "x") else ".0f"
    return f"{statistics.median(values):{digits}} {unit} ({min(values):{digits}} to {max(values):{digits}})"


def conditions(flags: argparse.Namespace, results: dict[str, list[Result]]) -> str:
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
    machine = [models[0] if models else platform.processor(), f"{os.cpu_count()} cores"]
    if "peak" in results:
        machine += [_spread([r["gflops"] for r in results["peak"]], "gflops") + " in matrix products"]
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
    of_shapes = {
        name: {"kind": "shaped", "shape": name, "num_texts": 32 * flags.num_steps, "folder": folder}
        for name in ("bert", "deberta", "mpnet")
    }
    return {
        "none": {"kind": "nothing"},
        "short": {**reviews, "num_texts": flags.num_texts, "num_epochs": flags.num_epochs},
        "long": {"kind": "drawn", "dataset": "sample:imdb", "num_texts": 128, "num_test_texts": 100, "num_epochs": 2},
        **of_shapes,
        "encode": {"kind": "to_encode", "num_texts": flags.num_predicted},
        "predict": {"kind": "to_predict", "num_texts": flags.num_predicted, "folder": folder},
        "start": {"kind": "to_start", "num_texts": flags.num_predicted, "folder": folder},
    }


def parse() -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = list(dict.fromkeys(row.part for row in COMPARISONS))
    parser.add_argument("--cpu", action="store_true", required=True, help="measure on this machine's CPU")
    parser.add_argument("--only", choices=parts, nargs="+", default=list(CPU_PARTS), help="parts of the table")
    parser.add_argument("--num-texts", type=int, default=512, help="texts to train on; ratios grow with them (512)")
    parser.add_argument("--num-epochs", type=int, default=2, help="epochs of a training (2)")
    parser.add_argument("--num-steps", type=int, default=6, help="steps of the shapes with random weights (6)")
    parser.add_argument("--num-predicted", type=int, default=8000, help="texts to predict and encode (8000)")
    parser.add_argument("--pairs", type=int, default=3, help="how often each system is run (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    return parser.parse_args()


def main() -> None:
    """Measure what was asked for and print the table."""
    flags = parse()
    rows = [row for row in COMPARISONS if row.part in flags.only]
    wanted = {name for row in rows for name in (row.ours, row.rival) if name is not None}
    wanted |= {BEFORE[name] for name in wanted if name in BEFORE} | {"peak"}
    systems = {name: system for name, system in SYSTEMS.items() if name in wanted}
    with tempfile.TemporaryDirectory() as folder:
        needed = {system.job for system in systems.values()}
        made = wishes(flags, folder).items()
        jobs: dict[str, Job] = {name: in_process("job", wish, Path(folder)) for name, wish in made if name in needed}
        results = measure(systems, jobs, num_pairs=flags.pairs)
    about = conditions(flags, results)
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
    else:
        found = work(SYSTEMS[role], given)
    print(MARK + json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        as_worker(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
