"""What is wrong with a data set, before anything is trained on it: `nlptl check`."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nlptl.config import Columns, TaskKind, columns_of
from nlptl.data.checks import describe_findings, find_problems
from nlptl.data.findings import Finding, finding, finding_on, target_finding
from nlptl.data.languages import can_tell_languages
from nlptl.data.sources import Examples
from nlptl.data.splits import read_splits
from nlptl.data.targets import label_sets, order_problem
from nlptl.data.writers import check_output, write_json
from nlptl.errors import ConfigError, DataError

if TYPE_CHECKING:  # The checks that need no model import no torch.
    from nlptl.data.tokens import Tokens
    from nlptl.model.classifier import Classifier

MIN_CUT_TEXTS, MIN_UNKNOWN_TOKENS = 0.01, 0.001
"""Shares of the texts of a split, and of its tokens, from which on they are a finding."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Columns):
    """What is wrong with a data set: each finding with its rows, what it means and what to do.

    The exit code is 3 where something cannot be trained on, or with --strict where anything is found; else 0.
    """

    dataset: str
    """A file, a folder with train / validation / test files, a Hub id, or a sample; splits are checked as given."""
    task: TaskKind = "single_label"
    """What the labels are, as in training."""
    label_order: tuple[str, ...] = ()
    """The labels of an ordinal task from the lowest to the highest. Empty: they are numbers."""
    near_duplicates: bool = True
    """Look for texts that are nearly the same: a second or less for 5,000 texts."""
    model: str | None = None
    """Encoder whose tokenizer tells what is cut off and what is unknown. None: that is not checked."""
    max_length: int | None = None
    """Tokens of a text that are read, with --model. None: 256, or fewer if the encoder takes fewer."""
    label_errors: bool = False
    """Look for labels that are likely wrong, with --model: its frozen encoder is run over all texts."""
    seed: int = 0
    """Seeds the five parts of the data, each judged by a model of the other four, with --label-errors."""
    strict: bool = False
    """Warnings count like errors."""
    output: Path | None = None
    """JSON file for the findings; one that is there is replaced. None: the list alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        found = [f"--max-length {self.max_length}"] * (self.max_length is not None)
        found += ["--label-errors"] * self.label_errors
        if self.label_order and self.task != "ordinal":
            raise ConfigError(f"Expected --label-order only with the task ordinal, found {self.task}. Leave it out.")
        if self.seed != 0 and not (self.label_errors and 0 <= self.seed < 2**32):
            raise ConfigError(
                f"Expected a --seed from 0 to {2**32 - 1}, and only with --label-errors, found {self.seed}. Correct "
                "it, or leave it out."
            )
        if self.label_errors and (self.task != "single_label" or self.pair_column is not None):
            raise ConfigError(
                "Expected one label for each single text with --label-errors, found another task, or pairs. Leave it "
                "out."
            )
        if found and self.model is None:
            raise ConfigError(
                f"Expected {found[0]} only with --model, found no model. Pass the encoder, as in --model "
                "sample:minilm, or leave it out."
            )


class LabelError(NamedTuple):
    """A label that is likely wrong, the one that it likely should be, and the margin between their probabilities."""

    split: str
    row: int
    label: str
    likely: str
    margin: float


def check_data(config: CheckConfig) -> list[Finding]:
    """Check a data set, log the findings and write them to `config.output`.

    Raises:
        ConfigError: If a flag cannot be obeyed.
        DataError: If the data cannot be read, has an error, or with `strict` a warning.
        ResourceError: If the report cannot be written, or the data or the model cannot be had.
    """
    if config.output is not None:
        check_output(config.output, suffixes=(".json",))
    splits = read_splits(config.dataset, columns_of(config), task=config.task)
    for name, examples in splits.items():
        if config.task == "regression":
            logger.info("%s: %s texts with scores", name, f"{len(examples):,}")
            continue
        classes = len({label for labels in label_sets(examples.labels, config.task) for label in labels})
        logger.info(
            "%s: %s texts, %s %s", name, f"{len(examples):,}", f"{classes:,}", "class" if classes == 1 else "classes"
        )
    if not can_tell_languages():
        logger.info("languages are not looked at: pip install 'nlptl[languages]'")
    problem = None
    if config.task == "ordinal":
        problem = order_problem(splits["train"].labels, config.label_order, where=splits["train"].source)
    findings = [target_finding(problem)] if problem else []
    findings += find_problems(splits, near_duplicates=config.near_duplicates, task=config.task)
    shares: dict[str, dict[str, float]] = {}
    label_errors: list[LabelError] = []
    if config.model is not None:
        model = _load(config.model, splits, config)
        for name, examples in splits.items():
            shares[name], found = _check_tokens(model, examples, name)
            findings += found
        if config.label_errors:
            label_errors, found = _check_labels(model, splits, config.seed)
            findings += found
    logger.info("found %s", describe_findings(findings))
    if config.output is not None:
        _write_report(config.output, splits, config.task, findings, shares, label_errors)
    stopping = [each for each in findings if config.strict or each.severity == "error"]
    if stopping:
        raise DataError(
            f"Expected data without {'findings (--strict)' if config.strict else 'errors'}, found {len(stopping)}. "
            "The list says what to do about each."
        )
    return findings


def _load(name: str, splits: Mapping[str, Examples], config: CheckConfig) -> "Classifier":
    from nlptl.model.classifier import Classifier

    # Two or more, where it is an error that there is one; what they are does not matter.
    labels = sorted({*splits["train"].labels, "a", "b"}) if config.label_errors else ["a", "b"]
    return Classifier.from_pretrained(
        name, labels=labels, pairs=config.pair_column is not None, max_length=config.max_length, freeze="encoder"
    )


def _check_tokens(model: "Classifier", examples: Examples, name: str) -> tuple[dict[str, float], Sequence[Finding]]:
    """Return which shares of a split are cut off or unknown to the tokenizer, and the findings on that."""
    from nlptl.data.tokens import tokenize, tokenize_pairs

    # With room for one token more, the texts that are cut are those that fill it.
    room = model.max_length + 1
    if model.reads_pairs:
        tokens = tokenize_pairs(examples.texts, examples.pairs, model.tokenizer, max_length=room)
    else:
        tokens = tokenize(examples.texts, model.tokenizer, max_length=room)
    is_cut = tokens.lengths > model.max_length
    num_tokens = len(tokens.ids) + tokens.num_cut_tokens
    is_unknown = tokens.ids == (-1 if model.tokenizer.unk_token_id is None else model.tokenizer.unk_token_id)
    special_ids = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    num_special = _count_by_text(tokens, np.isin(tokens.ids, list(special_ids)))
    shares = {
        "cut_texts": float(is_cut.mean()),
        "cut_tokens": (tokens.num_cut_tokens + int(is_cut.sum())) / num_tokens,
        "unknown_tokens": float(is_unknown.mean()),
    }
    logger.info(
        "%s: max_length %d cuts %.1f %% of the texts and %.1f %% of the tokens; %.2f %% of the tokens are unknown",
        *(name, model.max_length, *(100 * share for share in shares.values())),
    )
    found = []
    if shares["cut_texts"] >= MIN_CUT_TEXTS:
        what = f"{examples.source}: texts in {name} of more than {model.max_length} tokens"
        found.append(finding_on("truncation", what, examples, is_cut))
    if shares["unknown_tokens"] >= MIN_UNKNOWN_TOKENS:
        what = f"{examples.source}: texts in {name} with tokens that {model.source} does not know"
        found.append(finding_on("unknown_token", what, examples, _count_by_text(tokens, is_unknown) > 0))
    most = model.tokenizer.num_special_tokens_to_add(pair=model.reads_pairs)
    what = f"{examples.source}: texts in {name} that spell special tokens of {model.source}"
    found.append(finding_on("special_token", what, examples, num_special > most))
    return shares, [each for each in found if each is not None]


def _count_by_text(tokens: "Tokens", is_meant: np.ndarray) -> np.ndarray:
    """Return how many of the tokens that are meant each text has."""
    texts = np.searchsorted(tokens.offsets, np.flatnonzero(is_meant), side="right") - 1
    return np.bincount(texts, minlength=len(tokens))


def _check_labels(
    model: "Classifier", splits: Mapping[str, Examples], seed: int
) -> tuple[list[LabelError], list[Finding]]:
    """Return the labels that are likely wrong, the likeliest first, and a finding for each split with any."""
    from nlptl.training.label_errors import find_label_errors

    where = [(name, i) for name, examples in splits.items() for i in range(len(examples))]
    texts = [text for examples in splits.values() for text in examples.texts]
    labels = [label for examples in splits.values() for label in examples.labels]
    errors = []
    for place, likely, margin in find_label_errors(model, texts, labels, seed=seed)[0]:
        split, i = where[place]
        errors.append(LabelError(split, splits[split].rows[i], labels[place], likely, margin))
    findings = []
    for name, examples in splits.items():
        found = [error for error in errors if error.split == name]
        shown = ", ".join(f"{error.row} is {error.label!r}, likely {error.likely!r}" for error in found[:5])
        more = ", ..." if len(found) > 5 else ""
        count = f"{len(found):,} {'row' if len(found) == 1 else 'rows'}"
        message = f"{examples.source}: labels of {name} that are likely wrong: {count} ({shown}{more})"
        if found:
            findings.append(finding("label_error", message, rows=[error.row for error in found]))
    return errors, findings


def _write_report(
    path: Path,
    splits: Mapping[str, Examples],
    task: TaskKind,
    findings: Sequence[Finding],
    shares: Mapping[str, Mapping[str, float]],
    label_errors: Sequence[LabelError],
) -> None:
    report = {
        "labels": {
            name: dict(Counter(label for labels in label_sets(examples.labels, task) for label in labels))
            for name, examples in splits.items()
        },
        "findings": [dataclasses.asdict(each) for each in findings],
        "truncation": shares,
        "label_errors": [error._asdict() for error in label_errors],
    }
    write_json(path, report)
    logger.info("wrote the findings to %s", path)
