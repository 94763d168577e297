"""What the tests of FSDP2 run in each process: `python sharding_worker.py JOBS MODELS OUTPUT`.

`MODELS` holds a folder for each family. A job leaves what it found in the output folder, under its name, rank and
number of processes.
"""

import json
import os
import sys
from pathlib import Path
from unittest.mock import patch

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from nlptl import Classifier, Examples, Run, Trainer, TrainingConfig, UserError
from nlptl.model import inference
from nlptl.training.devices import processes
from nlptl.training.sharding import whole

WORDS = ["good", "bad", "film", "story", "great", "dull", "plot", "was", "not", "very"]
SGD = {"optimizer": "sgd", "learning_rate": 0.01}
ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3}
REGULARIZERS = {"mixout": 0.3, "l2_sp": 0.1, "ema_decay": 0.9, "wise_ft": 0.5, "fgm": 0.1}
CHUNKS = {"long_text": "chunks", "max_length": 9, "max_chunks": 2}
REGIMES = {
    "full": ("bert", {}, ADAMW),
    "clipped": ("bert", {}, {**SGD, "max_grad_norm": 0.01}),
    "frozen layer": ("bert", {"freeze": 1}, SGD),
    "hidden states": ("bert", {"freeze": 1}, SGD),
    "frozen embeddings": ("bert", {"freeze": "embeddings"}, SGD),
    "frozen encoder": ("bert", {"freeze": "encoder"}, SGD),
    "uncached": ("bert", {"freeze": "encoder"}, {**SGD, "cache": False}),
    "attention": ("bert", {"freeze": "encoder", "pooling": "attention"}, SGD),
    "lora": ("bert", {"lora_rank": 2}, ADAMW),
    "dora": ("bert", {"freeze": 1, "lora_rank": 2, "dora": True}, SGD),
    "mean": ("bert", {"pooling": "mean"}, ADAMW),
    "sigmoid": ("bert", {"pooling": "mean", "layers": "mix", "hidden": 8, "binary_loss": "sigmoid"}, SGD),
    "chunks": ("bert", {**CHUNKS, "chunk_pooling": "attention"}, SGD),
    "chunks, frozen layer": ("bert", {**CHUNKS, "freeze": 1}, SGD),
    "regularizers": ("bert", {}, {**SGD, **REGULARIZERS}),
    "albert": ("albert", {}, SGD),
    "deberta-v2": ("deberta-v2", {}, SGD),
}
"""By name, the family, settings of the model and of the training; only in float32 are hidden states computed once."""


class Stopped(BaseException):
    """No error that anything catches."""


def examples(count: int, split: str = "train") -> Examples:
    """Return texts of different lengths, labelled by a word."""
    texts = [" ".join(WORDS[(i * 7 + 3 * k) % 10] for k in range(1 + (i * 5) % 14)) for i in range(count)]
    return Examples.from_lists(texts, ["positive" if i % 3 else "negative" for i in range(count)], split=split)


def build(folder: Path, **settings: object) -> Classifier:
    """Return a float64 model without dropout."""
    return Classifier.from_pretrained(folder, labels=("negative", "positive"), dropout=0.0, **settings).double()


def weights(model: Classifier) -> dict[str, torch.Tensor]:
    """Return copies of all weights, each of which is whole."""
    assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())
    return {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}


def regimes(models: Path, output: Path, suffix: str) -> None:
    """Train and score under every regime, in small batches, of which processes have different numbers."""
    with patch.object(inference, "CPU_TOKENS", 20):
        learn_all(models, output, suffix)


def learn_all(models: Path, output: Path, suffix: str) -> None:
    for name, (family, settings, training) in REGIMES.items():
        model = build(models / family, **settings)
        learn(name, model.float() if name == "hidden states" else model, output, suffix, training)


def learn(name: str, model: Classifier, output: Path, suffix: str, training: dict[str, object]) -> None:
    """Take two epochs of 11 examples, which both end with a step on one; leave gradients, weights and scores."""
    num_processes, gradients = processes().num_processes, {}

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        step = sum(key.startswith("0 ") for key in gradients)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients.update({f"{i} {step}": whole(p.grad).clone() for i, p in enumerate(parameters)})
        for p in parameters:
            rows = len(p.to_local()) if isinstance(p, DTensor) else len(p)
            assert rows <= -(-len(p) // num_processes)
        assert trainer.accelerator.is_fsdp2 == (num_processes > 1)

    config = TrainingConfig(
        **{"num_epochs": 2, "batch_size": 10, "micro_batch_tokens": 20, "warmup_ratio": 0.0, "eval_steps": 1},
        # FSDP2 has the whole table in the optimizer, and gradients are compared with those of one process.
        **{"logging_steps": 1, "sparse_embeddings": False, **training},
    )
    run = Run.open(output / f"run-{name}-{num_processes}", config) if name == "full" else None
    trainer = Trainer(model, config, output_dir=run)
    memory = trainer.estimate(examples(11)).memory
    handle = register_optimizer_step_pre_hook(look)
    trainer.fit(examples(11), validation=examples(7, "validation"))
    handle.remove()
    scores = trainer.evaluate(examples(5, "test")).to_json()
    save_file(gradients, output / f"gradients-{name}-{suffix}.safetensors")
    save_file(weights(model), output / f"weights-{name}-{suffix}.safetensors")
    (output / f"scores-{name}-{suffix}.json").write_text(json.dumps(scores))
    (output / f"memory-{name}-{suffix}.json").write_text(json.dumps(memory))


def go_on(folder: Path, run: Path, *, resume: bool) -> Classifier:
    """Train for six steps with a moving average, with a checkpoint every two."""
    config = TrainingConfig(num_epochs=3, batch_size=8, learning_rate=1e-3, eval_steps=2, ema_decay=0.9)
    model = build(folder)
    Trainer(model, config, output_dir=Run.open(run, config, resume=resume)).fit(
        examples(16), validation=examples(7, "validation")
    )
    return model


def undisturbed(models: Path, output: Path, suffix: str) -> None:
    """A training from its beginning to its end."""
    save_file(weights(go_on(models / "bert", output / "undisturbed", resume=False)), output / "undisturbed.safetensors")


def interrupted(models: Path, output: Path, suffix: str) -> None:
    """The same, interrupted in its fifth step on all processes."""
    steps = []

    def stop(*_: object) -> None:
        steps.append(1)
        if len(steps) == 5:
            raise Stopped

    handle = register_optimizer_step_post_hook(stop)
    try:
        go_on(models / "bert", output / f"begun-by-{processes().num_processes}", resume=False)
    except Stopped:
        assert len(steps) == 5
    finally:
        handle.remove()


def resumed(models: Path, output: Path, suffix: str) -> None:
    """What two processes have left to do of what one has begun, or the other way round."""
    begun = output / f"begun-by-{3 - processes().num_processes}"
    assert any((begun / "checkpoints").glob("step-000004"))
    save_file(weights(go_on(models / "bert", begun, resume=True)), output / f"resumed-{suffix}.safetensors")


def errors(models: Path, output: Path, suffix: str) -> None:
    """What is refused, and a training that fails, leave the model as it was, and whole."""
    attempts: dict[str, dict[str, object]] = {
        "stages": {"warm_head_epochs": 1},
        "nan": {"learning_rate": 1e300, "optimizer": "sgd", "max_grad_norm": 0, "warmup_ratio": 0},
    }
    found = {}
    for name, settings in attempts.items():
        model = build(models / "bert")
        before = weights(model)
        try:
            Trainer(model, TrainingConfig(num_epochs=4, batch_size=8, **settings)).fit(examples(8))
        except UserError as error:
            found[name] = [type(error).__name__, str(error)]
        after = weights(model)
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert len(model.predict(["a good film"])) == 1
    (output / f"errors-{suffix}.json").write_text(json.dumps(found))


JOBS = {job.__name__: job for job in (regimes, undisturbed, interrupted, resumed, errors)}


def main(jobs: list[str], models: Path, output: Path) -> None:
    """Run `jobs` in this process, one of as many as the launcher has started."""
    state = processes()
    for job in jobs:
        JOBS[job](models, output, f"{state.process_index}-of-{state.num_processes}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1].split(","), Path(sys.argv[2]), Path(sys.argv[3]))
