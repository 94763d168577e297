"""The score that chooses a model is the one that heads scores.json, tables, report, comparison and several runs."""

import json
import logging
import typing
from pathlib import Path

import pytest

from nlptl import train_classifier
from nlptl.config import ClassificationConfig, RepeatsConfig, SelectionMetric, TrainingConfig
from nlptl.evaluation.metrics import METRICS
from nlptl.judging.compare import CompareConfig, compare
from nlptl.judging.document import decimal
from nlptl.tasks.kinds import KINDS
from tests.judging.test_report import check_page
from tests.recipes.test_tasks import toy_data

DATA = {
    "single_label": "sentence_pair",
    "ordinal": "ordinal",
    "multi_label": "multilabel",
    "regression": "regression",
    "tokens": "token_classification",
}
"""The toy data of each kind of task."""


def test_each_kind_has_its_metrics_and_each_metric_a_kind():
    assert METRICS.keys() == KINDS.keys() == DATA.keys()
    assert {metric for metrics in METRICS.values() for metric in metrics} == set(typing.get_args(SelectionMetric))


@pytest.mark.parametrize("task", DATA)
def test_the_score_that_chooses_is_reported_and_compared(
    task: str, tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="nlptl")
    data, metric = tmp_path / "data.jsonl", METRICS[task][0]
    data.write_text("".join(json.dumps(row) + "\n" for row in toy_data(DATA[task], 60)))
    config = ClassificationConfig(
        model=str(tiny_bert),
        dataset=str(data),
        task=task,
        pair_column="text2" if task == "single_label" else None,
        output_dir=tmp_path / "run",
        near_duplicates=False,
        train=TrainingConfig(num_epochs=1, batch_size=16, learning_rate=1e-3),
        repeats=RepeatsConfig(seeds=(0, 1)),
    )
    scores = train_classifier(config)
    runs = [config.output_dir / name for name in ("seed-0", "seed-1")]
    records = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    assert any(f"validation_{metric}" in record for record in records)

    written = json.loads((runs[0] / "scores.json").read_text())["test"]
    assert set(METRICS[task]) <= written.keys()
    assert written[metric]["low"] <= written[metric]["value"] <= written[metric]["high"]
    (table, _) = [message for message in caplog.messages if message.startswith("\ntest ")]
    assert f"\n{metric} " in table
    assert f"{written[metric]['value']:.4f}" in table

    page = check_page((runs[0] / "report.html").read_text(encoding="utf-8"))
    assert page.text("dd").startswith(decimal(written[metric]["value"]))

    caplog.clear()
    compare(CompareConfig(runs=tuple(runs), resamples=50))
    assert f"{metric}, difference" in caplog.text

    summary = json.loads((config.output_dir / "seeds.json").read_text())["summary"]
    assert summary[metric]["mean"] == pytest.approx(scores[metric].value)
