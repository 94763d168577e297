"""Fine-tune an encoder from the top: the head first, then one more layer with every epoch (ULMFiT).

Lower layers learn at lower rates. What is still frozen is computed once for each stage.

Usage:
    python recipes/gradual_unfreezing.py
    python recipes/gradual_unfreezing.py --unfreeze-every-epochs 2 --num-epochs 8
    python recipes/gradual_unfreezing.py --dataset tickets.csv --text-column body --label-column queue
    python recipes/gradual_unfreezing.py --freeze 4                      # the lowest four layers never train
    python recipes/gradual_unfreezing.py --unfreeze-every-epochs None --warm-head-epochs 2  # all at once after the head
    python recipes/gradual_unfreezing.py --num-epochs 4 --layer-decay 0.8 --dry-run  # show the stages, train nothing
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """Gradual unfreezing; any data with one text and one label per row works."""

    output_dir: Path = Path("runs/gradual_unfreezing")
    """Folder of the run: model, scores, predictions, checkpoints."""
    train: TrainingConfig = TrainingConfig(num_epochs=4, unfreeze_every_epochs=1, layer_decay=0.8)


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
