"""What the systems work on: texts drawn once for all of them, and model folders, real or with random weights."""

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import Job, quiet

SHAPES: dict[str, dict[str, Any]] = {
    "bert": {},  # transformers' defaults are those of bert-base
    "mpnet": {},  # and those of mpnet-base
    # deberta-v3-xsmall
    "deberta": {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 256,
        "max_relative_positions": -1,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "pooler_hidden_size": 384,
    },
}
"""Shapes that get random weights, for times alone; all with the vocabulary of the sample encoder."""

FAMILIES = {"bert": "bert", "mpnet": "mpnet", "deberta": "deberta-v2"}


def drawn(*, dataset: str, num_texts: int, num_test_texts: int, num_epochs: int, max_length: int = 256) -> Job:
    """Return texts, their labels and the folder of the sample encoder."""
    import nlptl
    from nlptl.model.encoder import find_model

    splits = nlptl.load_splits(dataset)
    counts = {"train": num_texts, "test": min(num_test_texts, len(splits["test"]))}
    parts = {
        name: splits[name].select(random.Random(0).sample(range(len(splits[name])), count))
        for name, count in counts.items()
    }
    return {
        "model": str(find_model("sample:minilm")),
        "names": list(splits.labels.names),
        "texts": parts["train"].texts,
        "labels": parts["train"].labels,
        "test_texts": parts["test"].texts,
        "test_labels": parts["test"].labels,
        "num_epochs": num_epochs,
        "max_length": max_length,
    }


def shaped(*, shape: str, folder: str, **wish: Any) -> Job:
    """Return texts as `drawn` does, and a model folder of a shape with random weights."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    quiet()
    job = drawn(num_test_texts=32, **wish)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    config = AutoConfig.for_model(FAMILIES[shape], **{"vocab_size": len(tokenizer), **SHAPES[shape]})
    torch.manual_seed(0)
    where = Path(folder) / shape
    AutoModel.from_config(config).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return {**job, "model": str(where)}


def to_encode(*, num_texts: int) -> Job:
    """Return texts of all splits, in random order."""
    import nlptl
    from nlptl.model.encoder import find_model

    splits = nlptl.load_splits("sample:rotten_tomatoes")
    parts = [splits[name] for name in ("train", "validation", "test")]
    texts = [pair for part in parts for pair in zip(part.texts, part.labels, strict=True)]
    random.Random(0).shuffle(texts)
    names = list(splits.labels.names)
    chosen = texts[:num_texts]
    return {
        "model": str(find_model("sample:minilm")),
        "names": names,
        "texts": [text for text, _ in chosen],
        "labels": [label for _, label in chosen],
    }


def to_predict(*, num_texts: int, folder: str, with_onnx: bool = True) -> Job:
    """Return the same texts, and a model trained on 512 of them, as a stock folder and as an ONNX file."""
    import nlptl
    from nlptl import Classifier, Examples, TrainingConfig

    job = to_encode(num_texts=num_texts)
    model = Classifier.from_pretrained(job["model"], labels=job["names"], freeze="nothing", max_length=256)
    few = Examples.from_lists(job["texts"][:512], job["labels"][:512])
    nlptl.Trainer(model, TrainingConfig(num_epochs=1, batch_size=16, learning_rate=1e-4)).fit(few)
    trained, onnx = Path(folder) / "trained", Path(folder) / "model.onnx"
    model.save(trained)
    if with_onnx:
        export(str(trained), str(onnx))
    return {**job, "trained": str(trained), "onnx": str(onnx)}


def export(folder: str, path: str) -> None:
    """Write a stock model as an ONNX file that takes batches of any size."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.ones(2, 8, dtype=torch.long)
    names = {name: {0: "batch", 1: "tokens"} for name in ("input_ids", "attention_mask", "token_type_ids")}
    torch.onnx.export(
        model,
        (ids, ids, ids * 0),
        path,
        input_names=list(names),
        output_names=["logits"],
        dynamic_axes=names,
        dynamo=False,
    )


def to_start(*, num_texts: int, folder: str) -> Job:
    """Return a file of reviews."""
    job = to_encode(num_texts=num_texts)
    path = Path(folder) / "reviews.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(job["texts"], job["labels"], strict=True)])
    return {"model": job["model"], "file": str(path)}


def to_run(*, num_texts: int, num_others: int, folder: str) -> Job:
    """Return a folder of reviews with files for train, validation and test."""
    job = to_encode(num_texts=num_texts + 2 * num_others)
    rows = list(zip(job["texts"], job["labels"], strict=True))
    where = Path(folder) / "reviews"
    where.mkdir()
    ends = (0, num_texts, num_texts + num_others, len(rows))
    for name, start, end in zip(("train", "validation", "test"), ends, ends[1:], strict=False):
        with (where / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows[start:end]])
    return {"model": job["model"], "names": job["names"], "folder": str(where)}


def make(kind: str, **wish: Any) -> Job:
    """Return the job of a kind."""
    makers: dict[str, Callable[..., Job]] = {
        "nothing": dict,
        "drawn": drawn,
        "shaped": shaped,
        "to_encode": to_encode,
        "to_predict": to_predict,
        "to_run": to_run,
        "to_start": to_start,
    }
    return makers[kind](**wish)
