"""`nlptl check`: find problems in a data set before training on it."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptl.config import Columns, ReadingConfig, TaskKind, part_of
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
"""Smallest fractions of the texts of a split, and of its tokens, that are reported as a finding."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Columns):
    """Find problems in a data set. Each finding comes with its rows, what it means and what to do.

    The exit code is 3 if something cannot be trained on, or with --strict if anything is found; else 0.
    """

    dataset: str
    """A file, a folder with train / validation / test files, a Hub id, or a sample; splits are checked as given."""
    task: TaskKind = "single_label"
    """Kind of target, as in training."""
    label_order: tuple[str, ...] = ()
    """The labels of an ordinal task from the lowest to the highest. Empty: they are numbers."""
    near_duplicates: bool = True
    """Look for near-duplicate texts; takes a second or less for 5,000 texts."""
    model: str | None = None
    """Encoder whose tokenizer is used to look for texts that are cut off and unknown tokens. None: not checked."""
    max_length: int | None = None
    """Tokens of a text that the model reads, with --model. None: 256, or fewer if the encoder is limited to fewer."""
    label_errors: bool = False
    """Look for labels that are likely wrong, with --model; runs its frozen encoder over all texts."""
    seed: int = 0
    """Seeds the five folds of --label-errors; a model of the other four judges the labels of each."""
    strict: bool = False
    """Treat warnings as errors."""
    output: Path | None = None
    """Write the findings to this JSON file, replacing it if it exists. None: only print them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        found = [f"--max-length {self.max_length}"] * (self.max_length is not None)
        found += ["--label-errors"] * self.label_errors
        if self.label_order and self.task != "ordinal":
            raise ConfigError(f"Expected --label-order only with the task ordinal, found {self.task}. Leave it out.")
        if self.seed != 0 and not (self.label_errors and 0 <= self.seed < 2**32):
            raise ConfigError(
                f"--seed {self.seed} has no effect, or is out of range: it needs --label-errors and a number from 0 to "
                f"{2**32 - 1}. Correct it, or leave it out."
            )
        if self.label_errors and (self.task != "single_label" or self.pair_column is not None):
            raise ConfigError(
                "--label-errors needs single texts with one label each, not pairs or another --task. Leave it out."
            )
        if found and self.model is None:
            raise ConfigError(f"{found[0]} needs an encoder. Pass one, as in --model sample:minilm, or leave it out.")


def check_data(config: CheckConfig) -> list[Finding]:
    """Check a data set, log the findings and write them to `config.output`.

    Raises:
        ConfigError: If flags contradict each other or the data.
        DataError: If the data cannot be read, has an error, or with `strict` a warning.
        ResourceError: If the report cannot be written, or the data or the model cannot be downloaded.
    """
    if config.output is not None:
        check_output(config.output, suffixes=(".json",))
    splits = read_splits(config.dataset, part_of(Columns, config), task=config.task)
    counts = {name: Counter(chain.from_iterable(label_sets(each.labels, config.task))) for name, each in splits.items()}
    for name, examples in splits.items():
        classes = "1 class" if len(counts[name]) == 1 else f"{len(counts[name]):,} classes"
        targets = "numbers" if config.task == "regression" else classes
        logger.info("%s: %s texts, %s", name, f"{len(examples):,}", targets)
    if not can_tell_languages():
        logger.info("not checking languages; to check them, run pip install 'nlptl[languages]'")
    problem = None
    if config.task == "ordinal":
        problem = order_problem(splits["train"].labels, config.label_order, where=splits["train"].source)
    findings = [target_finding(problem)] if problem else []
    findings += find_problems(splits, near_duplicates=config.near_duplicates, task=config.task)
    shares: dict[str, dict[str, float]] = {}
    label_errors: list[dict[str, Any]] = []
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
        report = {
            "labels": counts,
            "findings": [dataclasses.asdict(each) for each in findings],
            "truncation": shares,
            "label_errors": label_errors,
        }
        write_json(config.output, report)
        logger.info("wrote the findings to %s", config.output)
    stopping = [each for each in findings if config.strict or each.severity == "error"]
    if stopping:
        what = "findings (--strict)" if config.strict else "errors"
        raise DataError(f"Expected data without {what}, found {len(stopping)}. The list above says how to fix each.")
    return findings


def _load(name: str, splits: Mapping[str, Examples], config: CheckConfig) -> "Classifier":
    from nlptl.model.classifier import Classifier

    # A classifier needs two labels or more; any will do, since only its encoder is used.
    labels = sorted({*splits["train"].labels, "a", "b"}) if config.label_errors else ["a", "b"]
    return Classifier.from_pretrained(
        name, labels=labels, pairs=config.pair_column is not None, max_length=config.max_length, freeze="encoder"
    )


def _check_tokens(model: "Classifier", examples: Examples, name: str) -> tuple[dict[str, float], Sequence[Finding]]:
    """Return the fractions of texts and tokens of a split that are cut off or unknown, and the findings on them."""
    from nlptl.data.tokens import tokenize, tokenize_pairs

    # With one more token allowed, the texts that fill it are those that max_length cuts.
    room = model.max_length + 1
    if model.reads_pairs:
        tokens = tokenize_pairs(examples.texts, examples.pairs, model.tokenizer, max_length=room)
    else:
        tokens = tokenize(examples.texts, model.tokenizer, ReadingConfig(max_length=room))
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
    found, which = [], f"texts in {name}"
    if shares["cut_texts"] >= MIN_CUT_TEXTS:
        found.append(finding_on("truncation", f"{which} of more than {model.max_length} tokens", examples, is_cut))
    if shares["unknown_tokens"] >= MIN_UNKNOWN_TOKENS:
        what = f"{which} with tokens that {model.source} does not know"
        found.append(finding_on("unknown_token", what, examples, _count_by_text(tokens, is_unknown) > 0))
    most = model.tokenizer.num_special_tokens_to_add(pair=model.reads_pairs)
    what = f"{which} that spell special tokens of {model.source}"
    found.append(finding_on("special_token", what, examples, num_special > most))
    return shares, [each for each in found if each is not None]


def _count_by_text(tokens: "Tokens", mask: np.ndarray) -> np.ndarray:
    """Return how many of the masked tokens each text has [texts], from a mask [tokens]."""
    texts = np.searchsorted(tokens.offsets, np.flatnonzero(mask), side="right") - 1
    return np.bincount(texts, minlength=len(tokens))


def _check_labels(
    model: "Classifier", splits: Mapping[str, Examples], seed: int
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Return the labels that are probably wrong, the most probable first, and a finding for each split with any."""
    from nlptl.training.label_errors import find_label_errors

    rows = [(name, row) for name, examples in splits.items() for row in examples.rows]
    texts = [text for examples in splits.values() for text in examples.texts]
    labels = [label for examples in splits.values() for label in examples.labels]
    errors: list[dict[str, Any]] = []
    for place, likely, margin in find_label_errors(model, texts, labels, seed=seed)[0]:
        split, row = rows[place]
        errors.append({"split": split, "row": row, "label": labels[place], "likely": likely, "margin": margin})
    findings = []
    for name, examples in splits.items():
        found = [error for error in errors if error["split"] == name]
        shown = [f"{error['row']} is {error['label']!r}, likely {error['likely']!r}" for error in found]
        listed = ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
        count = "1 row" if len(found) == 1 else f"{len(found):,} rows"
        message = f"{examples.source}: labels in {name} that are likely wrong: {count} ({listed})"
        if found:
            findings.append(finding("label_error", message, rows=[error["row"] for error in found]))
    return errors, findings
