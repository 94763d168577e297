"""Train a classifier of the sentiment towards one aspect of a text: the food was good, but the service was slow.

Text and aspect go through the encoder as a pair (Sun, Huang and Qiu 2019, arXiv:1903.09588), so that the same text has
another label for another aspect.

Usage:
    python recipes/aspect_sentiment.py --dataset restaurants.csv         # columns text, aspect, label
    python recipes/aspect_sentiment.py --dataset tweets.jsonl --pair-column target --label-column polarity
    python recipes/aspect_sentiment.py --dataset restaurants.csv --class-weights balanced
    python recipes/aspect_sentiment.py --dataset restaurants.csv --group-column review_id    # a review in one split
    python recipes/aspect_sentiment.py --dataset restaurants.csv --lora-rank 8
    nlptl predict runs/aspect_sentiment/model --input new.csv --pair-column aspect
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """The sentiment of a text towards an aspect that is given beside it."""

    pair_column: str | None = "aspect"
    """Column with the aspect or target towards which the label is."""
    output_dir: Path = Path("runs/aspect_sentiment")
    """Folder of the run: model, scores, predictions, checkpoints."""
    train: TrainingConfig = TrainingConfig(num_epochs=4, learning_rate=1e-4)


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
