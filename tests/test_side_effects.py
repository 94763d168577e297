"""A process that uses nlptl is, afterwards, as it was before, apart from what its libraries change on import."""

import json
import os
import subprocess
import sys
from pathlib import Path

LOOK = """
import csv, gc, json, logging, os, random, signal, sys, warnings
import numpy, torch, torch._dynamo, transformers, accelerate, datasets, evaluate, sklearn.linear_model
from pathlib import Path

def state():
    return {
        "signal handlers": {s.name: str(signal.getsignal(s)) for s in signal.Signals},
        "environment": dict(os.environ),
        "garbage collection": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()],
        "random": random.getstate(),
        "numpy": str(numpy.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "grad mode": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), str(torch.get_default_dtype())],
        "determinism": [torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()],
        "warnings": list(map(str, warnings.filters)),
        "sys.meta_path": list(map(str, sys.meta_path)),
        "sys.path": list(sys.path),
        "excepthook": [str(sys.excepthook), str(sys.unraisablehook)],
        "csv": csv.field_size_limit(),
        "logging": [logging.root.level, list(map(str, logging.root.handlers)), logging.root.manager.disable,
                    logging.getLogger("nlptl").level, list(map(str, logging.getLogger("nlptl").handlers))],
        "transformers": [transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()],
        "datasets": [datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()],
        "recursion limit": sys.getrecursionlimit(),
        "working folder": os.getcwd(),
        "umask": [os.umask(0o22), os.umask(0o22)][0],
    }
"""

USE = """
folder, data, output, *steps = sys.argv[1:]
before = json.loads(json.dumps(state()))
import nlptl
from nlptl import Classifier, Trainer, TrainingConfig, TransferConfig, TextClassifier, load_splits
splits = load_splits(data)
model = Classifier.from_pretrained(folder, labels=splits.labels, transfer=TransferConfig(reinit_layers=1))
model.predict(["a good film"])
model.encode(["a good film"])
trainer = Trainer(model, TrainingConfig(num_epochs=1), output_dir=output)
trainer.fit(splits["train"], validation=splits["validation"])
trainer.evaluate(splits["test"])
Classifier.from_pretrained(Path(output) / "model").predict(["a good film"])
rows = splits["train"]
TextClassifier(folder, head="logistic").fit(rows.texts, rows.labels).predict(["a good film"])
TextClassifier(folder, num_epochs=1, freeze="nothing").fit(rows.texts, rows.labels)
after = json.loads(json.dumps(state()))
print(json.dumps({key: [before[key], after[key]] for key in before if before[key] != after[key]}))
"""


def run(code: str, *arguments: object) -> str:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, cwd=root)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_changes_nothing():
    code = (
        "import csv, gc, os, signal, sys, warnings\n"
        "def state(): return [*map(signal.getsignal, signal.Signals)], dict(os.environ), gc.isenabled(), "
        "gc.get_threshold(), gc.get_freeze_count(), [*warnings.filters], [*sys.meta_path], csv.field_size_limit()\n"
        "before = state()\nimport nlptl\nnlptl.ConfigError, nlptl.TrainingConfig\nassert state() == before\n"
        "assert 'torch' not in sys.modules"
    )
    run(code)


def test_loading_predicting_and_training_change_nothing(tiny_bert: Path, toy_csv: Path, tmp_path: Path):
    found = json.loads(run(LOOK + USE, tiny_bert, toy_csv, tmp_path / "run").splitlines()[-1])
    assert {key: _changed(*values) for key, values in found.items()} == {}


def _changed(before: object, after: object) -> object:
    """Return what differs, for the message."""
    if isinstance(before, dict):
        return {key: (before.get(key), after.get(key)) for key in before | after if before.get(key) != after.get(key)}
    return str(before)[:500], str(after)[:500]
