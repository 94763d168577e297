"""Train a classifier that tells positive from negative text, on top of a pretrained encoder.

Usage:
    python recipes/sentiment.py                                          # linear probe: the encoder is frozen
    python recipes/sentiment.py --freeze nothing --num-epochs 2          # full fine-tuning
    python recipes/sentiment.py --hidden 1024 --activation relu --binary-loss sigmoid --optimizer adam
    python recipes/sentiment.py --dataset reviews.csv --text-column review --label-column stars
    python recipes/sentiment.py --config runs/sentiment/config.json --seed 1 --output-dir runs/seed1
    accelerate launch --num_processes 2 recipes/sentiment.py             # the same gradient as on one device
"""

from dataclasses import dataclass
from pathlib import Path

import nlptl
from nlptl import cli
from nlptl.config import Freeze, HeadConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sentiment of short reviews; any data with one text and one label per row works."""

    model: str = "sample:minilm"
    """Pretrained encoder: sample:minilm, a local folder, or a Hub id (name@revision pins it)."""
    dataset: str = "sample:rotten_tomatoes"
    """A file, a folder with train / validation / test files, a Hub id, or a sample."""
    text_column: str | None = None
    """Column with the text. None: found by name."""
    label_column: str | None = None
    """Column with the label. None: found by name."""
    max_examples: int | None = None
    """Keep at most this many examples of each split, for a first try."""
    freeze: Freeze = "encoder"
    """What keeps its pretrained weights: nothing, embeddings, encoder, or the number of lowest layers."""
    max_length: int | None = None
    """Tokens of a text that are read. None: 256, or fewer if the encoder takes fewer."""
    output_dir: Path = Path("runs/sentiment")
    """Folder of the run: model, scores, predictions, checkpoints."""
    resume: bool = False
    """Go on with the run in the folder, after an interruption."""
    overwrite: bool = False
    """Move a run that is in the folder aside."""
    seed: int = 0
    """Seeds the split, the new weights, the order of examples and dropout."""
    head: HeadConfig = HeadConfig()
    train: TrainingConfig = TrainingConfig()


def main(config: Config) -> dict[str, nlptl.Score]:
    """Train, keep the best model on validation, return the scores on test."""
    run = nlptl.Run.open(config.output_dir, config, resume=config.resume, overwrite=config.overwrite)
    splits = nlptl.load_splits(
        config.dataset,
        text_column=config.text_column,
        label_column=config.label_column,
        max_examples=config.max_examples,
        seed=config.seed,
    )
    run.record_splits(splits)
    model = nlptl.Classifier.from_pretrained(
        config.model,
        labels=splits.labels,
        freeze=config.freeze,
        max_length=config.max_length,
        seed=config.seed,
        **vars(config.head),
    )
    trainer = nlptl.Trainer(model, config.train, output_dir=run, seed=config.seed)
    trainer.fit(splits["train"], validation=splits["validation"])
    # Test is read once, after every choice was made on validation.
    return trainer.evaluate(splits["test"])


if __name__ == "__main__":
    cli.run(main, Config)
