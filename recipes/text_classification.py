"""Train a classifier of texts into two or more topics, intents or other classes, on top of a pretrained encoder.

Usage:
    python recipes/text_classification.py                                # BBC news, the encoder frozen
    python recipes/text_classification.py --freeze nothing --num-epochs 3
    python recipes/text_classification.py --dataset folder_with_train_and_test --max-length 64
    python recipes/text_classification.py --dataset tickets.csv --text-column body --label-column queue
    python recipes/text_classification.py --config runs/text_classification/config.json --output-dir runs/again
    torchrun --nproc_per_node 2 recipes/text_classification.py           # the same gradient as on one device
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, TransferConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """Classes of texts: topics, intents, any labels of which each text has one."""

    dataset: str = "sample:bbc_news"
    """A file, a folder with train / validation / test files, a Hub id, or a sample."""
    output_dir: Path = Path("runs/text_classification")
    """Folder of the run: model, scores, predictions, checkpoints."""
    transfer: TransferConfig = TransferConfig(freeze="encoder")


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
