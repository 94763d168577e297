"""Each word of a text has a tag, and tags of the form B-type and I-type make up spans (IOB2).

In training data, words are separated by blanks. The first token of a word decides on its tag, as in
Devlin et al. (2019, arXiv:1810.04805, section 5.3). Words beyond max_length are not seen by the model and are tagged O.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import regex
import torch
import torch.nn.functional as F

from nlptl.config import BinaryLoss, TaskKind, TrainingConfig
from nlptl.data.sources import Examples
from nlptl.data.targets import check_targets, label_sets
from nlptl.data.tokens import Tokens
from nlptl.errors import ConfigError
from nlptl.evaluation.calibration import Calibration, fit_temperature
from nlptl.evaluation.metrics import Scorer
from nlptl.evaluation.spans import find_spans, scorer
from nlptl.labels import Labels
from nlptl.tasks.single_label import weights_of_classes
from nlptl.tasks.task import Objective, Task

IGNORED = -100
"""Label id of tokens that have no tag of their own, as in transformers."""
UNREAD = -30.0
"""Logit of all tags but O for a word that the model has not seen."""

# Letters form words, with their marks, which Python's own \w lacks; each Chinese character is a word, since Chinese has
# no blanks; so is any other character, together with its modifiers, such as those of an emoji.
_WORD = regex.compile(
    r"(?:(?=\p{Han})\X)|[@#]?[\p{L}\p{N}_](?:[\p{L}\p{N}\p{M}_'\u2019.:/\u200c\u200d-]*[\p{L}\p{N}\p{M}_])?|(?!\s)\X"
)


@dataclass(frozen=True)
class Span:
    """A named part of a text: text[start:end] in characters, its type, and the mean probability of its tags."""

    label: str
    start: int
    end: int
    text: str
    probability: float


@dataclass(frozen=True)
class TokenLabels(Task):
    """A tag for each word; `names` are O and for each type of span B-type and I-type."""

    kind: ClassVar[TaskKind] = "tokens"
    problem_type: ClassVar[str | None] = None
    baseline_name: ClassVar[str] = "no spans"
    settings: ClassVar[tuple[str, ...]] = ("class_weights", "label_smoothing")
    calibrations: ClassVar[tuple[str, ...]] = ("temperature",)

    def __post_init__(self) -> None:
        super().__post_init__()
        Labels(self.names)
        if self.names[0] != "O" or any(name[:2] not in ("B-", "I-") for name in self.names[1:]):
            raise ConfigError(
                f"Expected the tags O, then B-type and I-type for each type, found {', '.join(self.names[:10])}. Pass "
                "for instance TokenLabels(('O', 'B-person', 'I-person'))."
            )

    @classmethod
    def from_examples(cls, train: Examples) -> Self:
        """Return the task with the types of spans that occur in `train`."""
        check_targets(train.labels, cls.kind, where=train.source)
        types = {tag[2:] for tags in label_sets(train.labels, cls.kind) for tag in tags} - {""}
        return cls(("O", *(f"{prefix}-{name}" for name in sorted(types) for prefix in ("B", "I"))))

    def targets(self, examples: Examples) -> np.ndarray:
        """Return the ids of the tags of each text, an array of arrays: object [examples] of int64 [words]."""
        targets = np.empty(len(examples.labels), dtype=object)
        for i, tags in enumerate(examples.labels):
            targets[i] = self.labels.ids(tags.split(" "))
        return targets

    def batch_targets(self, targets: np.ndarray, tokens: Tokens, indices: np.ndarray) -> torch.Tensor:
        """Return the tag of the first token of each word, and for all other tokens `IGNORED`: [texts, tokens]."""
        batch = np.full((len(indices), int(tokens.lengths[indices].max())), IGNORED, dtype=np.int64)
        for row, i in enumerate(indices):
            words = tokens.words_of(int(i))
            batch[row, np.flatnonzero(words >= 0)] = targets[i][words[words >= 0]]
        return torch.from_numpy(batch)

    def objective(
        self, config: TrainingConfig, targets: np.ndarray, tokens: Tokens, *, binary_loss: BinaryLoss
    ) -> Objective:
        """Return the cross-entropy, summed over the words of a text; its weight is the number of its words."""
        read = [targets[i][words[words >= 0]] for i, words in enumerate(map(tokens.words_of, range(len(tokens))))]
        class_weights = weights_of_classes(config.class_weights, np.concatenate(read), num_labels=len(self.names))

        def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            weights = None if class_weights is None else torch.from_numpy(class_weights).to(logits)
            by_token = F.cross_entropy(
                logits.transpose(1, 2),
                labels,
                weight=weights,
                ignore_index=IGNORED,
                reduction="none",
                label_smoothing=config.label_smoothing,
            )
            return by_token.sum(dim=1)

        of_word = np.ones(len(self.names)) if class_weights is None else class_weights
        return Objective(losses, np.array([of_word[tags].sum() for tags in read]))

    def by_word(self, logits: torch.Tensor, tokens: Tokens, texts: Sequence[str]) -> torch.Tensor:
        """Return the logits of all words of all texts [words, tags] from those of all tokens [tokens, tags]."""
        assert tokens.words is not None
        num_words = np.array([text.count(" ") + 1 for text in texts])
        unread = torch.full((len(self.names),), UNREAD, dtype=logits.dtype)
        unread[0] = 0.0
        result = unread.repeat(int(num_words.sum()), 1)
        first = np.repeat(np.cumsum(num_words) - num_words, tokens.lengths)
        is_first = tokens.words >= 0
        result[torch.from_numpy((first + tokens.words)[is_first])] = logits[torch.from_numpy(is_first)]
        return result

    def outputs(self, logits: torch.Tensor) -> np.ndarray:
        """Return the probability of each tag for each word, one text after the other: float64 [words, tags]."""
        raw = logits.double().numpy()
        # Words that were not seen are O by convention, with nothing to calibrate.
        calibrated = np.where(_is_read(raw)[:, None], self.calibration.apply(raw), raw)
        shares: np.ndarray = torch.from_numpy(calibrated).softmax(dim=-1).numpy()
        return shares

    def fit_calibration(self, targets: np.ndarray, logits: np.ndarray, choice: str) -> Calibration:
        """Return a temperature, fitted to the words that the model has seen."""
        is_read = _is_read(logits)
        return fit_temperature(self.flat(targets)[is_read], logits[is_read])

    def flat(self, targets: np.ndarray) -> np.ndarray:
        """Return the tags of all words, int64 [words]."""
        return np.concatenate(targets)

    def point_scores(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Return F1, precision and recall of spans, others, and the log loss of tags."""
        of_true = outputs[np.arange(len(outputs)), np.concatenate(targets)]
        log_loss = -np.log(np.maximum(of_true, np.finfo(np.float64).eps)).mean()
        return {**super().point_scores(targets, outputs), "log_loss": float(log_loss)}

    def scorer(self, targets: np.ndarray, outputs: np.ndarray) -> Scorer:
        """Return the scorer of spans and tags."""
        return scorer(self._tags(targets), self._predicted(outputs, [len(ids) for ids in targets]))

    def constant(self, train_targets: np.ndarray) -> tuple[Self, np.ndarray]:
        """Return the task and the tag O."""
        return self, np.eye(len(self.names))[0]

    def readable(self, texts: Sequence[str]) -> list[str]:
        """Return texts as words separated by blanks, with punctuation apart, as in training data."""
        return [" ".join(_WORD.findall(text)) for text in texts]

    def columns(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str], *, name: str) -> dict[str, Any]:
        """Return the tags of the words, or for new texts the spans in them."""
        if name == "predicted":
            return {name: [" ".join(tags) for tags in self._predicted(outputs, _num_words(read))]}
        return {"spans": [[asdict(span) for span in spans] for spans in self.predictions(outputs, read, texts)]}

    def predictions(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str]) -> list[list[Span]]:
        """Return the spans in each text."""
        if not read:
            return []
        num_words = _num_words(read)
        largest = np.split(outputs.max(axis=1), np.cumsum(num_words)[:-1])
        return [
            _spans(tags, probabilities, words.split(" "), text)
            for tags, probabilities, words, text in zip(
                self._predicted(outputs, num_words), largest, read, texts, strict=True
            )
        ]

    def doubts(self, targets: np.ndarray, outputs: np.ndarray) -> str | None:
        """Return a warning if no span is found."""
        if (outputs.argmax(axis=1) == 0).all():
            return "no span is found: train for more epochs, or at a higher --learning-rate"
        return None

    def _tags(self, targets: np.ndarray) -> list[list[str]]:
        return [[self.names[i] for i in ids] for ids in targets]

    def _predicted(self, outputs: np.ndarray, num_words: Sequence[int]) -> list[list[str]]:
        """Return the most probable tags; an I- tag that does not continue a span of its type begins one."""
        ids = np.split(outputs.argmax(axis=1), np.cumsum(num_words)[:-1])
        found = []
        for each in ids:
            tags: list[str] = []
            for tag in (self.names[i] for i in each):
                begins = tag.startswith("I-") and (not tags or tags[-1][2:] != tag[2:])
                tags.append(f"B-{tag[2:]}" if begins else tag)
            found.append(tags)
        return found


def _is_read(logits: np.ndarray) -> np.ndarray:
    """Return which words have logits of the network, bool [words]."""
    return np.asarray((logits[:, 1:] != UNREAD).any(axis=1))


def _num_words(texts: Sequence[str]) -> list[int]:
    return [text.count(" ") + 1 for text in texts]


def _spans(tags: Sequence[str], probabilities: np.ndarray, words: Sequence[str], text: str) -> list[Span]:
    starts, end = [], 0
    for word in words:
        start = text.index(word, end)
        starts.append(start)
        end = start + len(word)
    spans = []
    for label, first, last in find_spans(tags):
        start, end = starts[first], starts[last - 1] + len(words[last - 1])
        spans.append(Span(label, start, end, text[start:end], float(probabilities[first:last].mean())))
    return spans
