"""transformers in other processes: with `import nlptl.heads`, before or after; and without it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nlptl.model.classifier import Classifier

TEXTS = ["a lovely film", "", "dull and boring , not good"]
LABELS = ["bad", "good", "mixed"]

SHOW = f"""
import json
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

folder = sys.argv[1]
rows = pipeline("text-classification", folder, top_k=None)({TEXTS!r})
print(json.dumps({{
    "probabilities": [{{row["label"]: row["score"] for row in row_of_text}} for row_of_text in rows],
    "config": type(AutoConfig.from_pretrained(folder)).__name__,
    "model": type(AutoModelForSequenceClassification.from_pretrained(folder)).__name__,
    "nlptl": sorted(name for name in sys.modules if name.partition(".")[0] == "nlptl"),
}}))
"""


def run(code: str, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "import sys\n" + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_nlptl_imports_neither_torch_nor_transformers():
    code = "import nlptl\nprint(sorted({'torch', 'transformers', 'numpy', 'datasets', 'sklearn'} & sys.modules.keys()))"
    assert run(code).strip() == "[]"


@pytest.mark.parametrize(
    ("imports", "pooling"),
    [
        ("import nlptl.heads", "mean"),
        pytest.param(
            "from transformers import AutoConfig, AutoModelForSequenceClassification\nimport nlptl.heads",
            "mean",
            marks=pytest.mark.nightly,
        ),
        pytest.param("from nlptl import Classifier\nClassifier", "mean", marks=pytest.mark.nightly),
        ("", "native"),
    ],
    ids=["nlptl first", "transformers first", "with Classifier", "without nlptl"],
)
def test_a_saved_model_in_transformers(imports: str, pooling: str, tiny_bert: Path, tmp_path: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling=pooling)
    model.save(tmp_path)
    found = json.loads(run(imports + SHOW, tmp_path))
    for row, prediction in zip(found["probabilities"], model.predict(TEXTS), strict=True):
        assert row == pytest.approx(prediction.probabilities, abs=1e-6)
    names = ("HeadedConfig", "HeadedClassifier") if imports else ("BertConfig", "BertForSequenceClassification")
    assert (found["config"], found["model"]) == names
    assert bool(found["nlptl"]) == bool(imports)
