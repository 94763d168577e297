"""Where the time of a step of full fine-tuning goes, by torch's profiler. Needs the extra `samples` and no network.

The time is that of operations: what Python takes between them is not in it.

Usage:
    python tests/benchmarks/step_profile.py                   # batches of 16: half a minute
    python tests/benchmarks/step_profile.py --batch-size 32
"""

import argparse
import random

from torch.profiler import ProfilerActivity, profile
from transformers import logging

import nlptl
from nlptl import Classifier, Trainer, TrainingConfig

NUM_TEXTS = 512
PRODUCTS = ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise")
"""Matrix products of linear layers, forwards and backwards."""


def main() -> None:
    """Print a line for each of the operations that take most, in milliseconds of a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rows", type=int, default=20)
    flags = parser.parse_args()
    logging.set_verbosity_error()
    splits = nlptl.load_splits("sample:rotten_tomatoes")
    texts = splits["train"].select(random.Random(0).sample(range(len(splits["train"])), NUM_TEXTS))
    model = Classifier.from_pretrained("sample:minilm", labels=splits.labels, max_length=128)
    config = TrainingConfig(num_epochs=1, batch_size=flags.batch_size)
    Trainer(model, config).fit(texts)  # first, so that all memory is there
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        Trainer(model, config).fit(texts)
    # The few micro-batches that are run to say what the training takes are among them.
    num_steps = -(-NUM_TEXTS // flags.batch_size)
    found = {each.key: each.self_cpu_time_total / 1000 / num_steps for each in profiler.key_averages()}
    products = sum(found.get(name, 0) for name in PRODUCTS)
    print(
        f"a step of {flags.batch_size} texts: {sum(found.values()):.0f} ms, of them matrix products {products:.0f} ms"
    )
    for name, milliseconds in sorted(found.items(), key=lambda item: -item[1])[: flags.rows]:
        print(f"{milliseconds:8.1f} ms  {name}")


if __name__ == "__main__":
    main()
