"""Fit a logistic regression to what a frozen encoder says of each text: the quickest baseline, and a strong one.

The encoder runs once over the texts; what it gives is kept, so that a second run with another head takes seconds.

Usage:
    python recipes/linear_probe.py
    python recipes/linear_probe.py --head centroid
    python recipes/linear_probe.py --max-examples 1000 --seeds 0 1 2
    python recipes/linear_probe.py --layers 2 --pooling cls              # the last two layers, side by side
    python recipes/linear_probe.py --head dense --hidden 1024 256        # a dense head, trained by gradient
    python recipes/linear_probe.py --dataset tickets.csv --text-column body --label-column queue
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, HeadConfig, TransferConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """A head over a frozen encoder; any data with one text and one label per row works."""

    output_dir: Path = Path("runs/linear_probe")
    """Folder of the run: model, scores, predictions, checkpoints."""
    transfer: TransferConfig = TransferConfig(freeze="encoder")
    head: HeadConfig = HeadConfig(head="logistic")


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
