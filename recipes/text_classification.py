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
from nlptl.config import Freeze, HeadConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """Topics of news articles; any data with one text and one label per row works."""

    model: str = "sample:minilm"
    """Pretrained encoder: sample:minilm, a local folder, or a Hub id (name@revision pins it)."""
    dataset: str = "sample:bbc_news"
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
    output_dir: Path = Path("runs/text_classification")
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
