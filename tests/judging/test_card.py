"""The model card: its metadata as the Hub's library reads it, and its numbers."""

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from nlptl.judging.card import HUB_METRICS, hub_id, model_card
from nlptl.judging.run_files import read_run
from tests.judging.made_up import LABELS, METRICS, write_run
from tests.judging.test_markdown import rows, tokens
from tests.judging.test_report import HOSTILE


@pytest.mark.parametrize("task", LABELS)
def test_the_hub_reads_its_metadata(task: str, tmp_path: Path):
    folder = write_run(tmp_path / "run", task)
    content = model_card(read_run(folder))
    card = ModelCard(content)
    data = card.data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == ("token-classification" if task == "tokens" else "text-classification")
    assert data.base_model == "owner/encoder"
    assert data.datasets is None
    assert data.language is None
    scores = json.loads((folder / "scores.json").read_text())["test"]
    results = {result.metric_name: result for result in data.eval_results}
    assert len(results) == len(METRICS[task])
    for metric in METRICS[task]:
        (result,) = [r for r in results.values() if r.metric_type == HUB_METRICS.get(metric, metric)]
        assert result.metric_value == pytest.approx(scores[metric]["value"], abs=5e-5)
        assert (result.dataset_name, result.dataset_split) == ("reviews.csv", "test")
        assert f"| {scores[metric]['value']:.3f} | {scores[metric]['low']:.3f} to" in content
    assert "cd" * 32 in content
    assert "worse on 1 slice" in content
    assert ("ECE" in content) == (task not in ("regression", "tokens"))
    assert ["num_epochs", "3"] in rows(content)
    assert "25.0 % of the test texts are too long" in content


def test_names_on_the_hub_are_linked_and_folders_stay_private(tmp_path: Path):
    folder = write_run(tmp_path / "run", dataset="/home/somebody/secret/reviews.csv")
    (tmp_path / "encoder").mkdir()
    config = json.loads((folder / "config.json").read_text()) | {"model": str(tmp_path / "encoder")}
    (folder / "config.json").write_text(json.dumps(config))
    content = model_card(read_run(folder))
    assert "/home/somebody" not in content
    assert str(tmp_path) not in content
    assert "reviews.csv" in content
    assert ModelCard(content).data.base_model is None
    (folder / "config.json").write_text(json.dumps(config | {"dataset": "stanfordnlp/imdb@main"}))
    assert ModelCard(model_card(read_run(folder))).data.datasets == ["stanfordnlp/imdb"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("google-bert/bert-base-uncased", "google-bert/bert-base-uncased"),
        ("bert-base-uncased@main", "bert-base-uncased"),
        ("owner/data:configuration@1.0", "owner/data"),
        ("sample:minilm", None),
        ("../encoder", None),
        ("/srv/models/encoder", None),
        ("reviews.csv", None),
        ("a/b/c", None),
        ("https://example.org", None),
        (".", None),
        ("", None),
    ],
)
def test_what_is_a_name_on_the_hub(source: str, expected: str | None):
    assert hub_id(source) == expected


def test_hostile_names_break_neither_metadata_nor_text(tmp_path: Path):
    labels = (f"a {HOSTILE}\n---\n", f"b: {HOSTILE}")
    folder = write_run(tmp_path / "run", labels=labels, text=HOSTILE, column=HOSTILE, dataset=f"x: {HOSTILE}")
    content = model_card(read_run(folder))
    _, front, text = content.split("---\n", 2)
    assert set(yaml.safe_load(front)) == {
        *("library_name", "pipeline_tag", "base_model", "tags", "metrics", "model-index"),
    }
    found = tokens(text)
    assert [t.content for t in found if t.type in ("html_inline", "html_block", "link_open", "image")] == []
    assert [t.content for t in found if t.type == "heading_open"].count("") == 7


def test_a_score_that_is_not_defined_is_left_out_of_the_metadata(tmp_path: Path):
    folder = write_run(tmp_path / "run", analysed=False)
    scores = json.loads((folder / "scores.json").read_text())
    scores["test"]["log_loss"] = {"value": None, "low": None, "high": None, "n": 0}
    (folder / "scores.json").write_text(json.dumps(scores))
    data = ModelCard(model_card(read_run(folder))).data
    assert [result.metric_name for result in data.eval_results] == ["accuracy", "macro F1"]
