"""Train a classifier that gives each text any number of labels, such as the emotions in a comment.

The labels of a text are a list in one column, or a column of 0 and 1 for each label. From which probability on a label
is given is chosen for each label on validation, and saved with the model.

Usage:
    python recipes/multilabel.py --dataset comments.jsonl                # {"text": ..., "labels": ["joy", "love"]}
    python recipes/multilabel.py --dataset comments.csv --label-separator ";"
    python recipes/multilabel.py --dataset comments.csv --label-columns toxic insult threat
    python recipes/multilabel.py --dataset comments.jsonl --loss asymmetric      # for many labels that are rare
    python recipes/multilabel.py --dataset comments.jsonl --freeze nothing --num-epochs 5 --learning-rate 3e-4
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, TaskKind, TrainingConfig, TransferConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """Any number of labels for each text."""

    task: TaskKind = "multi_label"
    """What the data says of each text."""
    output_dir: Path = Path("runs/multilabel")
    """Folder of the run: model, scores, predictions, checkpoints."""
    transfer: TransferConfig = TransferConfig(freeze="encoder")
    train: TrainingConfig = TrainingConfig(num_epochs=20)


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
