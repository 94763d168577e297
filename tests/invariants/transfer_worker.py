"""What the tests of transfer control run in each of several processes: `python transfer_worker.py MODEL OUTPUT`.

Every process leaves its weights in the output folder, under the regime, its rank and the number of processes.
"""

import logging
import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")

import torch
from safetensors.torch import save_file

from nlptl import Classifier, Examples, Trainer, TrainingConfig
from nlptl.training.devices import processes
from tests.conftest import options

WORDS = ["good", "bad", "film", "story", "great", "dull", "plot", "was", "not", "very"]
REGIMES = {
    "freeze": ({"freeze": 1}, {"num_epochs": 2}),
    "lora": ({"freeze": 1, "lora_rank": 2}, {"num_epochs": 2}),
    "attention": ({"freeze": "encoder", "pooling": "attention"}, {"num_epochs": 2}),
    "gradual": ({}, {"num_epochs": 4, "unfreeze_every_epochs": 2}),
}
"""By name, settings of the model and of the training."""


def examples(count: int, split: str = "train") -> Examples:
    """Return texts of different lengths, labelled by a word."""
    texts = [" ".join(WORDS[(i * 7 + 3 * k) % 10] for k in range(1 + (i * 5) % 14)) for i in range(count)]
    return Examples.from_lists(texts, ["positive" if i % 3 else "negative" for i in range(count)], split=split)


def train(folder: Path, output: Path, regime: str) -> None:
    """Train without dropout, whose noise depends on the processes, and save the weights."""
    settings, config = REGIMES[regime]
    model = Classifier.from_pretrained(folder, labels=("negative", "positive"), dropout=0.0, **options(**settings))
    rates = {"learning_rate": 0.1, "optimizer": "sgd", "warmup_ratio": 0.0}
    trainer = Trainer(model, TrainingConfig(batch_size=8, micro_batch_tokens=40, **rates, **config))
    trainer.fit(examples(21), validation=examples(13, "validation"))
    state = processes()
    weights = {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}
    save_file(weights, output / f"{regime}-{state.process_index}-of-{state.num_processes}.safetensors")


def main(folder: Path, output: Path) -> None:
    """Train under every regime in this process, one of as many as the launcher has started."""
    for regime in REGIMES:
        train(folder, output, regime)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
