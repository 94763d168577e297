"""What nlptl adds to a stock model folder: nlptl.json, a model card, and that it appears whole or not at all."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from nlptl.config import HeadConfig, ReadingConfig, from_json, to_json
from nlptl.data.tokens import call_tokenizer, overlap_of_chunks
from nlptl.data.writers import write_text
from nlptl.errors import ConfigError, ResourceError, UntrustedFileError
from nlptl.formats import CARD_FORMAT, check_format, current_settings
from nlptl.model.headed_config import HeadedConfig
from nlptl.model.readme import pipeline_of, readme, usage, usage_notes
from nlptl.tasks.kinds import KINDS
from nlptl.tasks.task import Task

CARD = "nlptl.json"

CANARY = (
    "The quick brown fox jumps over the lazy dog.",
    "na\u00efve caf\u00e9 \u2014 \u6570\u636e \U0001f642",
    "[SEP] 007",
)
"""Texts whose token ids are hashed into a saved model, since tokenizers have changed silently between versions."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A classifier without its network and its tokenizer; `reads_pairs`: it reads two texts at once."""

    task: Task
    reads_pairs: bool = False
    head: HeadConfig
    reading: ReadingConfig
    source: str


def write_card(folder: Path, card: Card, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write nlptl.json, and README.md for whoever finds the folder."""
    if Path(card.source).expanduser().exists():  # where it stands on this machine is nothing for others
        card = replace(card, source=Path(card.source).absolute().name)
    values: dict[str, Any] = {
        "format": CARD_FORMAT,
        "task": card.task.kind,
        "labels": list(card.task.names),
        **card.task.card(),
        "pairs": card.reads_pairs,
        **to_json(card.reading),
        "head": to_json(card.head),
        "source": card.source,
        "tokenizer_canary": _canary(tokenizer),
    }
    (folder / CARD).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if card.reading.in_chunks:
        values["chunk_overlap"] = overlap_of_chunks(tokenizer, card.reading)
    (folder / "README.md").write_text(_readme(values), encoding="utf-8")


def forget_paths(folder: Path) -> None:
    """Leave out of config.json, at any level, where on this machine an encoder was loaded from."""
    path = folder / "config.json"
    text = path.read_text(encoding="utf-8")
    values = json.loads(text, object_hook=_without_path)
    if values != json.loads(text):
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def rewrite_card(folder: Path, task: Task) -> None:
    """Put what `task` has chosen into the nlptl.json of a folder, whole or not at all; all else stays.

    Raises:
        ConfigError: If a setting in it was deleted, or a newer version wrote it.
        UntrustedFileError: If it is damaged.
        ResourceError: If it cannot be written.
    """
    values = {"format": CARD_FORMAT, **_settings(folder), **task.card()}
    write_text(folder / CARD, json.dumps(values, indent=2) + "\n")


def _settings(folder: Path) -> dict[str, Any]:
    """Read the settings in nlptl.json under their current names.

    Raises:
        ConfigError: If one of them was deleted, or a newer version wrote them.
        UntrustedFileError: If the file is damaged.
    """
    path = folder / CARD
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error
    check_format(values.get("format", 1), CARD_FORMAT, path)
    return current_settings(values, path)


def _damaged(path: Path, error: Exception) -> UntrustedFileError:
    return UntrustedFileError(
        f"Expected the settings of a saved classifier, cannot read {path}: {error!r}. Copy the folder again."
    )


def _readme(values: Mapping[str, Any]) -> str:
    kind, head = values["task"], values["head"]
    lines = [
        f"# {kind.replace('_', ' ').capitalize()} over {values['source']}",
        f"Head: {head['head']}. Pooling: {head['pooling']}, layers: {head['layers']}. It reads at most "
        f"{values['max_length']} tokens of a text ({values['long_text']}). Labels:",
        "\n".join(f"- {name}" for name in values["labels"]),
        *usage_notes(values),
    ]
    for caption, code in usage(values, "path/to/this/folder"):
        lines += [f"{caption}:", f"```\n{code}\n```"]
    return readme(f"library_name: transformers\npipeline_tag: {pipeline_of(kind)}", "\n\n".join(lines))


def read_card(folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Card:
    """Read nlptl.json and check it against the configuration and the tokenizer of the same folder.

    Raises:
        ConfigError: If a setting in it was deleted, or a newer version wrote it.
        UntrustedFileError: If it is damaged or contradicts them.
    """
    values = _settings(folder)
    fields = [name for name in to_json(ReadingConfig()) if name in values or name == "max_length"]
    try:
        card = Card(
            task=KINDS[values.get("task", "single_label")].from_card(tuple(values["labels"]), values),
            reads_pairs=bool(values.get("pairs", False)),
            head=from_json(HeadConfig, values["head"]),
            reading=from_json(ReadingConfig, {name: values[name] for name in fields}),
            source=str(folder),
        )
        canary = values["tokenizer_canary"]
        shape, names = _head_shape(config), tuple(name for _, name in sorted((config.id2label or {}).items()))
        if any(to_json(card.head)[name] != value for name, value in shape.items()) or names != card.task.names:
            described = ", ".join(f"{name} {value!r}" for name, value in shape.items())
            raise ValueError(f"config.json has {described} and labels {names}")
        if config.problem_type != card.task.problem_type:
            raise ValueError(f"config.json has problem_type {config.problem_type!r}, of another task")
        chunk_length, reading = getattr(config, "chunk_length", None), card.reading
        if reading.max_length is None or chunk_length != (reading.max_length if reading.in_chunks else None):
            raise ValueError(f"config.json has chunk_length {chunk_length!r}, max_length is {reading.max_length}")
    except (ConfigError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(folder / CARD, error) from error
    if canary != _canary(tokenizer):
        raise UntrustedFileError(
            f"Expected the tokenizer that the classifier in {folder} was trained with, found other token ids "
            "for the same text. Use the versions in the run's manifest.json, or restore the tokenizer files."
        )
    return card


@contextmanager
def new_folder(target: Path, *, what: str = "model", mark: str = CARD) -> Iterator[Path]:
    """Give a folder to write into; at the end it becomes `target`, in place of one of its kind that is there.

    Args:
        target: Where it is to stand.
        what: What is saved, in a word.
        mark: The file by which a folder of this kind is known.

    Raises:
        ConfigError: If `target` is something else than a folder of this kind.
        ResourceError: If the disk is full or cannot be written; what was there stays as it is.
    """
    if target.exists() and not (target / mark).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            f"Expected a new folder, or one with a saved {what}, found something else at {target}. "
            f"Pass another folder; nothing but a saved {what} is replaced."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
            staging = Path(beside) / "new"
            staging.mkdir()
            yield staging
            for path in staging.iterdir():  # safetensors gives its files to their owner alone
                path.chmod((staging / mark).stat().st_mode)
            old = Path(beside) / "old"
            if target.exists():
                target.rename(old)
            try:
                staging.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            f"Expected to write the {what} folder {target}, found: {error}. Free space or mend the permissions."
        ) from error


def _head_shape(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the settings of the head that config.json holds as well."""
    if not isinstance(config, HeadedConfig):
        return {"head": "dense", "pooling": "native", "layers": "last", "hidden": [], "chunk_pooling": "mean"}
    shape = {name: getattr(config, name) for name in ("head", "pooling", "layers", "hidden", "chunk_pooling")}
    return shape | {"hidden": list(config.hidden or [])}


def _without_path(values: dict[str, Any]) -> dict[str, Any]:
    name = values.get("_name_or_path")
    if isinstance(name, str) and (Path(name).is_absolute() or Path(name).expanduser().exists()):
        return {key: value for key, value in values.items() if key != "_name_or_path"}
    return values


def _canary(tokenizer: PreTrainedTokenizerBase) -> str:
    ids = [call_tokenizer(tokenizer, text)["input_ids"] for text in CANARY]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()
