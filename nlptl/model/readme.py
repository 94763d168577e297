"""README.md of a model folder: the one template, and what it says about using the model."""

import json
import shlex
from collections.abc import Mapping
from typing import Any


def readme(metadata: str, body: str) -> str:
    """Return a model card: YAML metadata, which the Hub reads, and Markdown."""
    return f"---\n{metadata.rstrip()}\n---\n\n{body.rstrip()}\n"


def pipeline_of(kind: str) -> str:
    """Return the pipeline of transformers that runs a kind of task."""
    return "token-classification" if kind == "tokens" else "text-classification"


def usage_notes(card: Mapping[str, Any]) -> list[str]:
    """Return how the model reads a text and what a pipeline leaves out, from the values of nlptl.json."""
    notes = []
    if card.get("long_text") == "chunks":
        overlap = card.get("chunk_overlap")
        notes.append(
            f"It reads a text in at most {card['max_chunks']} chunks of {card['max_length']} tokens, including special "
            f"tokens. Each chunk begins with the last {overlap or ''}{' ' * bool(overlap)}tokens of the previous one. "
            "The token ids of all chunks are passed one after the other, and their features are pooled "
            f"({card['head'].get('chunk_pooling')})."
        )
    if card.get("long_text") in ("head-tail", "chunks"):
        notes.append("A pipeline reads only the beginning of a longer text.")
    if card["task"] == "ordinal":
        notes.append("A pipeline gives the most probable label; `nlptl predict` gives the median.")
    if card["task"] != "regression":
        notes.append("A pipeline gives the network's probabilities; `nlptl predict` calibrates them with nlptl.json.")
    if card["task"] == "multi_label":
        notes.append("A pipeline does not use the threshold that each label has in nlptl.json.")
    return notes


def usage(card: Mapping[str, Any], folder: str) -> list[tuple[str, str]]:
    """Return code that uses the model in `folder`, each with its caption, from the values of nlptl.json."""
    pairs, is_per_token = card.get("pairs"), card["task"] == "tokens"
    flags = "--input pairs.csv --pair-column COLUMN" if pairs else '--text "..."'
    quoted = json.dumps(folder, ensure_ascii=False)
    one = '{"text": "...", "text_pair": "..."}' if pairs else '"..."'
    several = '["..."], ["..."]' if pairs else '["..."]'
    limit = "" if is_per_token else f", truncation=True, max_length={card.get('max_length', 256)}"
    is_native = card.get("head", {}).get("pooling") == "native"
    known = "" if is_native else "import nlptl.heads  # registers this head with transformers\n"
    python = f"from nlptl import Classifier\n\nmodel = Classifier.from_pretrained({quoted})\nmodel.predict({several})"
    pipeline = f'{known}from transformers import pipeline\n\npredict = pipeline("{pipeline_of(card["task"])}", '
    return [
        ("On the command line", f"nlptl predict {shlex.quote(folder)} {flags}"),
        ("In Python", python),
        ("As a pipeline of transformers", f"{pipeline}{quoted}{limit})\npredict({one})"),
    ]
