"""Train a classifier over pairs of texts: does one follow from the other, do both say the same, how similar are they?

Both texts go through the encoder at once, joined as its tokenizer joins pairs.

Usage:
    python recipes/sentence_pair.py --dataset paraphrases.csv            # columns text, text2, label
    python recipes/sentence_pair.py --dataset nli.jsonl --text-column premise --pair-column hypothesis
    python recipes/sentence_pair.py --dataset similarity.csv --task regression --label-column score
    python recipes/sentence_pair.py --dataset paraphrases.csv --freeze 3 --layer-decay 0.9
    accelerate launch --num_processes 2 recipes/sentence_pair.py --dataset paraphrases.csv
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import ClassificationConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationConfig):
    """A label, or with --task regression a score, for each pair of texts."""

    pair_column: str | None = "text2"
    """Column with the second text of each example, which the tokenizer joins to the first as a pair."""
    output_dir: Path = Path("runs/sentence_pair")
    """Folder of the run: model, scores, predictions, checkpoints."""
    train: TrainingConfig = TrainingConfig(num_epochs=4, learning_rate=1e-4)


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    return nlptl.train_classifier(config)


if __name__ == "__main__":
    cli.run(main, Config)
