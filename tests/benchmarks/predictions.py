"""What runs a model over texts: nlptl, transformers' pipeline, sentence-transformers and ONNX Runtime.

The model is loaded off the clock; tokenizing is on it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.benchmarks.measuring import Check, Job, System, quiet, share_equal

BATCH_SIZE, MAX_LENGTH = 32, 256


def predict_ours(job: Job, **settings: Any) -> Callable[[], Check]:
    """Return what predicts with nlptl."""
    from nlptl import Classifier

    quiet()
    model = Classifier.from_pretrained(job["trained"])
    model.predict(job["texts"][:1])

    def predict() -> Check:
        found = [each.label for each in model.predict(job["texts"])]
        return lambda: {"accuracy": share_equal(found, job["labels"])}

    return predict


def predict_pipeline(job: Job, *, is_sorted: bool) -> Callable[[], Check]:
    """Return what predicts with transformers' pipeline: a text at a time, its default, or in sorted batches of 32."""
    import transformers

    quiet()
    pipe = transformers.pipeline("text-classification", model=job["trained"], device="cpu")
    settings = {"truncation": True, "max_length": MAX_LENGTH} | ({"batch_size": BATCH_SIZE} if is_sorted else {})
    pipe(job["texts"][0], **settings)

    def predict() -> Check:
        texts = job["texts"]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i])) if is_sorted else range(len(texts))
        answers = pipe([texts[i] for i in order], **settings)
        found = [""] * len(texts)
        for i, answer in zip(order, answers, strict=True):
            found[i] = answer["label"]
        return lambda: {"accuracy": share_equal(found, job["labels"])}

    return predict


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


def encode_ours(job: Job) -> Callable[[], Check]:
    """Return what encodes with nlptl: the mean of the last layer's tokens."""
    from nlptl import Classifier

    quiet()
    model = Classifier.from_pretrained(job["model"], labels=job["names"], freeze="encoder", max_length=MAX_LENGTH)
    model.encode(job["texts"][:1])

    def encode() -> Check:
        vectors = model.encode(job["texts"])
        return lambda: {"accuracy": _accuracy(vectors, job["labels"])}

    return encode


def encode_sentence_transformers(job: Job) -> Callable[[], Check]:
    """Return what encodes with sentence-transformers at its default batch size, 32: the mean, not normalized."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    quiet()
    body = Transformer(job["model"], max_seq_length=MAX_LENGTH)
    model = SentenceTransformer(modules=[body, Pooling(body.get_word_embedding_dimension(), "mean")], device="cpu")
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
    "pipeline_default": System("predict", partial(predict_pipeline, is_sorted=False)),
    "pipeline_sorted": System("predict", partial(predict_pipeline, is_sorted=True)),
    "onnx_sorted": System("predict", predict_onnx),
    "ours_encode": System("encode", encode_ours),
    "sentence_transformers": System("encode", encode_sentence_transformers),
}
