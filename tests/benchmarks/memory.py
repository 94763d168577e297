"""Memory of a training against the number of rows: from a CSV file to scores, with a tiny encoder and few steps.

What counts is anonymous memory, which only this process has; pages of mapped files, which processes share and the
system takes back, are told apart. Every measurement is a process of its own with an empty cache. Needs Linux, the
packages of the tests, and no network.

Usage:
    python tests/benchmarks/memory.py
    python tests/benchmarks/memory.py --num-rows 20000 200000 --only full --json memory.json
"""

import os

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")

import argparse
import csv
import importlib.util
import itertools
import json
import logging
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = {"full": "nothing", "frozen": "encoder"}
"""Names of the trainings, and what each freezes."""
MARK = "RESULT "
STEPS = 20


def write_reviews(path: Path, num_rows: int) -> None:
    """Write texts of 5 to 21 words, each of which is there once, with labels by chance."""
    words = load_conftest().WORDS
    rng = random.Random(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for i in range(num_rows):
            writer.writerow((f"{' '.join(rng.choices(words, k=4 + i % 17))} {i}", ("negative", "positive")[i % 2]))


def load_conftest() -> Any:
    """Return the module that builds the tiny encoders of the tests."""
    spec = importlib.util.spec_from_file_location("conftest", Path(__file__).parents[1] / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(data: Path, model: Path, freeze: str, output: Path) -> dict[str, float]:
    """Train for two evaluations, of which the second cannot be better; return megabytes and seconds."""
    from nlptl import Classifier, Run, Trainer, TrainingConfig, load_splits

    logging.basicConfig(level="INFO", format="%(relativeCreated)8d %(message)s", stream=sys.stderr)
    Classifier, Trainer  # noqa: B018  imported when they are asked for
    before, peak = memory(), start_watch()
    start = time.perf_counter()
    config = TrainingConfig(num_epochs=1, batch_size=256, learning_rate=1e-12, eval_steps=STEPS, early_stopping=1)
    run = Run.open(output, config)
    splits = load_splits(data)
    run.record_splits(splits)
    loaded = time.perf_counter() - start
    trainer = Trainer(Classifier.from_pretrained(model, labels=splits.labels, freeze=freeze), config, output_dir=run)
    trainer.fit(splits["train"], validation=splits["validation"])
    trainer.evaluate(splits["test"])
    seconds = time.perf_counter() - start
    after = memory()
    return {
        "before": before["RssAnon"],
        "peak": peak(),
        "after": after["RssAnon"],
        "files": after["RssFile"],
        "seconds_to_load": loaded,
        "seconds": seconds,
    }


def memory() -> dict[str, float]:
    """Return the megabytes of this process, by kind."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 / 1e6 for name in ("RssAnon", "RssFile")}


def start_watch() -> Callable[[], float]:
    """Begin to look at the anonymous memory every 10 ms; return what returns the largest found."""
    found = [0.0]

    def watch() -> None:
        while True:
            found.append(max(found.pop(), memory()["RssAnon"]))
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    return lambda: max(found, default=0.0)


def measure(data: Path, model: Path, kind: str, folder: Path) -> dict[str, float]:
    """Return what `train` returns in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        environment = {**os.environ, "NLPTL_CACHE": f"{scratch}/cache"}
        command = [sys.executable, __file__, "--child", str(data), str(model), KINDS[kind], f"{scratch}/run"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise SystemExit(f"{' '.join(command)} gave no result:\n{done.stderr}")
    result: dict[str, float] = json.loads(line.removeprefix(MARK))
    return result


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rows", type=int, nargs="+", default=[20_000, 2_000_000])
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        data, model, freeze, output = arguments.child
        print(MARK + json.dumps(train(Path(data), Path(model), freeze, Path(output))))
        return
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = load_conftest().build_model("bert", folder / "model", num_hidden_layers=1)
        for num_rows in arguments.num_rows:
            write_reviews(folder / "reviews.csv", num_rows)
            for kind in [arguments.only] if arguments.only else KINDS:
                found = measure(folder / "reviews.csv", model, kind, folder)
                results.append({"kind": kind, "num_rows": num_rows, **found})
                print(
                    f"{kind:6} {num_rows:9,} rows: {found['peak']:5.0f} MB at most, {found['after']:5.0f} at the end "
                    f"({found['before']:.0f} before), {found['files']:5.0f} MB of files; "
                    f"{found['seconds_to_load']:.1f} s to read, split and check, {found['seconds']:.0f} s in all",
                    flush=True,
                )
    for kind in KINDS:
        of_kind = [result for result in results if result["kind"] == kind]
        for one, two in itertools.pairwise(of_kind):
            growth = {
                key: (two[key] - one[key]) * 1e6 / (two["num_rows"] - one["num_rows"]) for key in ("peak", "after")
            }
            print(f"{kind:6} bytes a row: {growth['peak']:.0f} at most, {growth['after']:.0f} at the end")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
