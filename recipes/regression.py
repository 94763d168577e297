"""Train a model that gives each text a score, or several: stars, readability, similarity, sentiment from -1 to 1.

Scores are brought to mean 0 and variance 1 while they are learned; what is predicted is in their own units.

Usage:
    python recipes/regression.py --dataset essays.csv --label-column grade
    python recipes/regression.py --dataset essays.csv --label-columns content style spelling
    python recipes/regression.py --dataset similarity.csv --pair-column text2         # the score of a pair of texts
    python recipes/regression.py --dataset essays.csv --freeze encoder --num-epochs 20
    python recipes/regression.py --dataset essays.csv --long-text chunks --label-column grade
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, TaskKind, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """A score, or several, for each text."""

    task: TaskKind = "regression"
    """What the data says of each text."""
    output_dir: Path = Path("runs/regression")
    """Folder of the run: model, scores, predictions, checkpoints."""
    train: TrainingConfig = TrainingConfig(num_epochs=4, learning_rate=1e-4)


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
