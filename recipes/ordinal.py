"""Train a classifier whose labels are in an order, such as one to five stars: a near miss is better than a far one.

The head learns how likely each label is to be exceeded (CORN, Shi, Cao and Raschka 2021); the median is predicted.

Usage:
    python recipes/ordinal.py --dataset reviews.csv --label-column stars              # numbers are in order
    python recipes/ordinal.py --dataset reviews.csv --label-column rating --label-order bad fair good
    python recipes/ordinal.py --dataset reviews.csv --label-column stars --freeze encoder --num-epochs 20
    python recipes/ordinal.py --dataset reviews.csv --label-column stars --class-weights balanced
    python recipes/ordinal.py --dataset reviews.csv --label-column stars --selection-metric mae
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, TaskKind, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """One out of several labels in an order for each text."""

    task: TaskKind = "ordinal"
    """What the data says of each text."""
    output_dir: Path = Path("runs/ordinal")
    """Folder of the run: model, scores, predictions, checkpoints."""
    train: TrainingConfig = TrainingConfig(num_epochs=3, learning_rate=1e-4)


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
