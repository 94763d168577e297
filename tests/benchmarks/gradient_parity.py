"""Does one optimizer step depend on how its 8 examples are split over micro-batches and processes?

The same weights, the same examples, dropout off: stock transformers Trainer against nlptl. The gradient of one step is
read off the weights that one SGD step at rate 1 has moved. Prints a table; needs no network, takes about a minute.

Usage:
    python tests/benchmarks/gradient_parity.py
"""

import os

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import gc
import importlib.util
import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

import nlptl

TEXTS = [f"the movie was {word} {other}" for word in ("good", "bad") for other in ("and", "but", "very", "it")]
LABELS = ["positive"] * 4 + ["negative"] * 4
TOKENS = 7  # of every text, special tokens included
MARK = "RESULT "


def stock_gradient(folder: Path, *, num_parts: int, num_processes: int) -> float:
    """Return the norm of the gradient of one step of transformers' Trainer."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [model.config.label2id[label] for label in LABELS]
    rows = [{**tokenizer(text), "labels": label} for text, label in zip(TEXTS, ids, strict=True)]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with tempfile.TemporaryDirectory() as out:
        arguments = transformers.TrainingArguments(
            out,
            per_device_train_batch_size=8 // num_parts // num_processes,
            gradient_accumulation_steps=num_parts,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            ddp_find_unused_parameters=False,
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return distance(before, model)


def our_gradient(folder: Path, *, num_parts: int, num_processes: int) -> float:
    """Return the norm of the gradient of one step of nlptl's Trainer."""
    model = nlptl.Classifier.from_pretrained(folder)
    before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    config = nlptl.TrainingConfig(
        num_epochs=1,
        batch_size=8,
        micro_batch_tokens=8 // num_parts // num_processes * TOKENS,
        optimizer="sgd",
        learning_rate=1.0,
        schedule="constant",
        warmup_ratio=0.0,
        max_grad_norm=0.0,
    )
    nlptl.Trainer(model, config).fit(nlptl.Examples.from_lists(TEXTS, LABELS))
    return distance(before, model.network)


def distance(before: dict[str, torch.Tensor], model: torch.nn.Module) -> float:
    """Return how far the weights have moved."""
    moved = [(p.detach() - before[name]).double().pow(2).sum() for name, p in model.named_parameters()]
    return float(torch.stack(moved).sum().sqrt())


SYSTEMS = {"transformers Trainer": stock_gradient, "nlptl Trainer": our_gradient}


def in_processes(name: str, folder: Path, num_processes: int) -> float:
    """Run one system in several gloo processes and return the norm that they agree on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(num_processes)}
    command = [sys.executable, __file__, "worker", name, str(folder), str(num_processes)]
    workers = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(num_processes)
    ]
    try:
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    found = [json.loads(line[len(MARK) :]) for out in outputs for line in out.splitlines() if line.startswith(MARK)]
    assert len(found) == num_processes, "a worker failed, see its error above"
    assert max(found) - min(found) < 1e-6, f"the processes disagree: {found}"
    return found[0]


def main() -> None:
    """Print the norm of the gradient for each split, and its ratio to the unsplit one."""
    transformers.logging.set_verbosity_error()
    spec = importlib.util.spec_from_file_location("conftest", Path(__file__).parents[1] / "conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    with tempfile.TemporaryDirectory() as name:
        encoder, folder = Path(name) / "encoder", Path(name) / "classifier"
        conftest.build_model("bert", encoder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        nlptl.Classifier.from_pretrained(encoder, labels=["negative", "positive"]).save(folder)
        print(f"torch {torch.__version__}, transformers {transformers.__version__}, one SGD step on 8 examples\n")
        print("| norm of the gradient | 1 micro-batch of 8 | 2 of 4 | 4 of 2 | 2 processes, 4 each |")
        print("|---|---|---|---|---|")
        for system, gradient in SYSTEMS.items():
            norms = [gradient(folder, num_parts=parts, num_processes=1) for parts in (1, 2, 4)]
            norms.append(in_processes(system, folder, 2))
            print(f"| {system} | " + " | ".join(f"{norm / norms[0]:.6f} x" for norm in norms) + " |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        transformers.logging.set_verbosity_error()
        norm = SYSTEMS[sys.argv[2]](Path(sys.argv[3]), num_parts=1, num_processes=int(sys.argv[4]))
        print(MARK + json.dumps(norm), flush=True)
        gc.collect()  # a DistributedDataParallel that outlives the process group can hang the process at its end
        torch.distributed.destroy_process_group()
    else:
        main()
