"""Adapt an encoder by low-rank updates (LoRA): few parameters train, and the saved model is a stock one.

Usage:
    python recipes/lora.py
    python recipes/lora.py --lora-rank 16 --lora-alpha 32
    python recipes/lora.py --freeze 4                                    # in the top layers only; the others run once
    python recipes/lora.py --num-epochs 5 --learning-rate 1e-3
    python recipes/lora.py --model bert-base-uncased --dataset reviews.csv --text-column review --label-column stars
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, TrainingConfig, TransferConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """LoRA; any data with one text and one label per row works. Needs peft: pip install 'nlptl[lora]'."""

    output_dir: Path = Path("runs/lora")
    """Folder of the run: model, scores, predictions, checkpoints."""
    transfer: TransferConfig = TransferConfig(lora_rank=8)
    train: TrainingConfig = TrainingConfig(num_epochs=3)


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
