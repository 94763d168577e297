"""Train a classifier that tells positive from negative text, on top of a pretrained encoder.

Usage:
    python recipes/sentiment.py                                          # linear probe: the encoder is frozen
    python recipes/sentiment.py --freeze nothing --num-epochs 2          # full fine-tuning
    python recipes/sentiment.py --hidden 1024 --binary-loss sigmoid --optimizer adam
    python recipes/sentiment.py --dataset reviews.csv --text-column review --label-column stars
    python recipes/sentiment.py --config runs/sentiment/config.json --seed 1 --output-dir runs/seed1
    accelerate launch --num_processes 2 recipes/sentiment.py             # the same gradient as on one device
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, TransferConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """Sentiment of short reviews; any data with one text and one label per row works."""

    output_dir: Path = Path("runs/sentiment")
    """Folder of the run: model, scores, predictions, checkpoints."""
    transfer: TransferConfig = TransferConfig(freeze="encoder")


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
