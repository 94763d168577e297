"""Encodes texts in a process of its own: `python cache_worker.py MODEL_FOLDER OUTPUT_FOLDER SECONDS [READY]`.

Each call of the encoder takes `SECONDS` longer. With `READY`, the process begins when that file is there. It leaves the
features and the number of calls in the output folder, under its rank.
"""

import os
import sys
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")

import torch
from safetensors.torch import save_file

from nlptl import Classifier, Examples
from nlptl.model import inference
from nlptl.training import encoding
from nlptl.training.cache import FeatureCache
from nlptl.training.devices import open_accelerator
from nlptl.training.inputs import encoder_sha256, prepare_inputs

WORDS = ["good", "bad", "film", "story", "great", "dull", "plot", "was", "not", "very"]
EXAMPLES = Examples.from_lists(
    [" ".join(WORDS[(i * 7 + 3 * k) % 10] for k in range(1 + (i * 5) % 14)) for i in range(60)],
    ["positive", "negative"] * 30,
)
SMALL = {(inference, "CPU_TOKENS"): 96, (encoding, "MICRO_BATCHES_PER_PART"): 2}
PARTS, CALLS = 4, 7
"""What the texts are cut into with the constants above; the last part is a single micro-batch."""


def encode(folder: Path, cache: FeatureCache | None, *, seconds: float = 0.0) -> tuple[torch.Tensor, int]:
    """Return the features of the texts, and how often the encoder was called."""
    model = Classifier.from_pretrained(folder, labels=("negative", "positive"), freeze="encoder")
    calls: list[int] = []

    def count(*_: object) -> None:
        calls.append(1)
        time.sleep(seconds)

    model.network.base_model.register_forward_hook(count)
    inputs = prepare_inputs(model, EXAMPLES, None)
    inputs = encoding.FrozenEncoder(model, open_accelerator("no"), cache, encoder_sha256(model)).encode(inputs)
    assert inputs.features is not None
    return inputs.features, len(calls)


def main(folder: Path, output: Path, seconds: float, ready: Path | None) -> None:
    """Encode when it is time to, with what `NLPTL_CACHE` holds, and write what came out."""
    for (owner, name), value in SMALL.items():
        setattr(owner, name, value)
    (output / f"started-{os.getpid()}").touch()
    while ready is not None and not ready.exists():
        time.sleep(0.001)
    features, calls = encode(folder, FeatureCache(gigabytes=1), seconds=seconds)
    save_file({"features": features, "calls": torch.tensor(calls)}, output / f"{os.environ.get('RANK', 0)}.safetensors")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]) if len(sys.argv) > 4 else None)
