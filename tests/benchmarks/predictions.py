"""What runs a model over texts: nlptl, transformers' pipeline, sentence-transformers and ONNX Runtime.

The model is loaded off the clock; tokenizing is on it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.benchmarks.measuring import Check, Job, System, device, quiet, share_equal

BATCH_SIZE, MAX_LENGTH = 32, 256


def predict_ours(
    job: Job, *, bf16: bool = False, padding_free: bool | None = None, num_warm: int = 1
) -> Callable[[], Check]:
    """Return what predicts with nlptl; `num_warm` texts are predicted off the clock."""
    import torch

    from nlptl import Classifier

    quiet()
    model = Classifier.from_pretrained(job["trained"]).to(device())
    model.leave_padding_out(padding_free)

    def predict(texts: list[str]) -> list[str]:
        with torch.autocast(device(), torch.bfloat16, enabled=bf16):
            return [each.label for each in model.predict(texts)]

    predict(job["texts"][:num_warm])

    def run() -> Check:
        found = predict(job["texts"])
        return lambda: {"accuracy": share_equal(found, job["labels"])}

    return run


def predict_pipeline(job: Job, *, num_warm: int = 1, **settings: Any) -> Callable[[], Check]:
    """Return what predicts with transformers' pipeline; `settings` are those of `make_pipeline`."""
    pipe = make_pipeline("text-classification", job["trained"], **settings)
    limits = {"truncation": True, "max_length": MAX_LENGTH}
    pipe(job["texts"][:num_warm], **limits)

    def predict() -> Check:
        found = [answer["label"] for answer in pipe(job["texts"], **limits)]
        return lambda: {"accuracy": share_equal(found, job["labels"])}

    return predict


def make_pipeline(
    task: str, model: str, *, batch_size: int | None = None, precision: str = "auto"
) -> Callable[..., list[Any]]:
    """Return transformers' pipeline: a text at a time, its default, or in batches of texts sorted by length."""
    import transformers

    quiet()
    pipe = transformers.pipeline(task, model=model, device=device(), dtype=precision)
    if batch_size is None:
        return pipe

    def run_sorted(texts: list[str], **settings: Any) -> list[Any]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        answers = pipe([texts[i] for i in order], batch_size=batch_size, **settings)
        by_place = dict(zip(order, answers, strict=True))
        return [by_place[i] for i in range(len(texts))]

    return run_sorted


def predict_onnx(job: Job) -> Callable[[], Check]:
    """Return what predicts with ONNX Runtime in float32, in batches of 32 sorted by tokens."""
    import numpy as np
    import onnxruntime
    from transformers import AutoTokenizer

    quiet()
    tokenizer = AutoTokenizer.from_pretrained(job["trained"])
    session = onnxruntime.InferenceSession(job["onnx"], providers=["CPUExecutionProvider"])
    wanted = {each.name for each in session.get_inputs()}

    def predict() -> Check:
        texts, ids = job["texts"], [0] * len(job["texts"])
        tokens = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)
        order = sorted(range(len(texts)), key=lambda i: len(tokens["input_ids"][i]))
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            padded = tokenizer.pad({k: [v[i] for i in rows] for k, v in tokens.items()}, return_tensors="np")
            (logits,) = session.run(None, {k: v.astype(np.int64) for k, v in padded.items() if k in wanted})
            for i, label in zip(rows, logits.argmax(axis=1).tolist(), strict=True):
                ids[i] = label
        return lambda: {"accuracy": share_equal([job["names"][i] for i in ids], job["labels"])}

    predict_few = {
        k: v for k, v in tokenizer(job["texts"][:2], padding=True, return_tensors="np").items() if k in wanted
    }
    session.run(None, {k: v.astype(np.int64) for k, v in predict_few.items()})
    return predict


def encode_ours(
    job: Job, *, bf16: bool = False, padding_free: bool | None = None, num_warm: int = 1
) -> Callable[[], Check]:
    """Return what encodes with nlptl: the mean of the last layer's tokens."""
    import torch

    from nlptl import Classifier

    quiet()
    model = Classifier.from_pretrained(job["model"], labels=job["names"], freeze="encoder", max_length=MAX_LENGTH)
    model.to(device()).leave_padding_out(padding_free)

    def encode(texts: list[str]) -> Any:
        with torch.autocast(device(), torch.bfloat16, enabled=bf16):
            return model.encode(texts)

    encode(job["texts"][:num_warm])

    def run() -> Check:
        vectors = encode(job["texts"])
        return lambda: {"accuracy": _accuracy(vectors, job["labels"])}

    return run


def encode_pipeline(job: Job, *, num_warm: int = 1, **settings: Any) -> Callable[[], Check]:
    """Return what encodes with transformers' pipeline: the mean of a text's tokens, and of padding in a batch."""
    import numpy as np

    pipe = make_pipeline("feature-extraction", job["model"], **settings)
    limits = {"tokenize_kwargs": {"truncation": True, "max_length": MAX_LENGTH}, "return_tensors": True}

    def encode(texts: list[str]) -> Any:
        return np.stack([tokens[0].float().mean(dim=0).numpy() for tokens in pipe(texts, **limits)])

    encode(job["texts"][:num_warm])

    def run() -> Check:
        vectors = encode(job["texts"])
        return lambda: {"accuracy": _accuracy(vectors, job["labels"])}

    return run


def encode_sentence_transformers(job: Job) -> Callable[[], Check]:
    """Return what encodes with sentence-transformers at its default batch size, 32: the mean, not normalized."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    quiet()
    body = Transformer(job["model"], max_seq_length=MAX_LENGTH)
    model = SentenceTransformer(modules=[body, Pooling(body.get_word_embedding_dimension(), "mean")], device=device())
    model.encode(job["texts"][:1], show_progress_bar=False)

    def encode() -> Check:
        vectors = model.encode(job["texts"], batch_size=BATCH_SIZE, show_progress_bar=False)
        return lambda: {"accuracy": _accuracy(vectors, job["labels"])}

    return encode


def _accuracy(vectors: Any, labels: list[str]) -> float:
    """Return the accuracy on the second half of the texts of a logistic regression over the first half."""
    from sklearn.linear_model import LogisticRegression

    half = len(labels) // 2
    head = LogisticRegression(max_iter=1000).fit(vectors[:half], labels[:half])
    return float(head.score(vectors[half:], labels[half:]))


SYSTEMS: dict[str, System] = {
    "ours_predict": System("predict", predict_ours),
    "pipeline_default": System("predict", predict_pipeline),
    "pipeline_sorted": System("predict", partial(predict_pipeline, batch_size=BATCH_SIZE)),
    "onnx_sorted": System("predict", predict_onnx),
    "ours_encode": System("encode", encode_ours),
    "sentence_transformers": System("encode", encode_sentence_transformers),
}
