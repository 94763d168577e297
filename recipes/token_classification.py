"""Train a model that finds spans in texts: names of persons and places, products, symptoms.

Each text is a list of words with a list of as many tags, O, B-type and I-type (IOB2): in JSON lines, Parquet, or a
CoNLL file with a word and its tag on each line. For a new text, `nlptl predict` gives spans with their places in it.

Usage:
    python recipes/token_classification.py --dataset names.jsonl         # {"tokens": ["In", "Rome"], "tags": ...}
    python recipes/token_classification.py --dataset names.conll
    python recipes/token_classification.py --dataset names.parquet --text-column words --label-column ner_tags
    python recipes/token_classification.py --dataset names.jsonl --class-weights balanced
    python recipes/token_classification.py --dataset names.jsonl --lora-rank 16 --num-epochs 10
    nlptl predict runs/token_classification/model --text "She moved from Rome to New York."
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, TaskKind, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """A tag for each word; spans are scored."""

    task: TaskKind = "tokens"
    """What the data says of each text."""
    output_dir: Path = Path("runs/token_classification")
    """Folder of the run: model, scores, predictions, checkpoints."""
    train: TrainingConfig = TrainingConfig(num_epochs=5, learning_rate=3e-4, batch_size=16)


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
