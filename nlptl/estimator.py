"""TextClassifier: a text classifier with the interface of scikit-learn."""

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, column_or_1d

from nlptl.config import (
    ClassWeights,
    Freeze,
    HeadConfig,
    HeadKind,
    Pooling,
    ReadingConfig,
    TrainingConfig,
    TransferConfig,
    with_shortcuts,
)
from nlptl.data.given import as_texts
from nlptl.data.sources import Examples
from nlptl.errors import ConfigError, DataError
from nlptl.model.classifier import Classifier
from nlptl.training.trainer import Trainer
from nlptl.values import show


class TextClassifier(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier for texts: a pretrained encoder, frozen by default, with a head.

    The parameters are those of `Classifier.from_pretrained`, a `TrainingConfig`, and shortcuts for its fields that are
    searched most, from `num_epochs` to `class_weights`. Without `freeze` and `transfer`, the encoder is frozen. It
    trains on all the texts passed to `fit`, writes no files, and selects nothing on held-out data; use
    `cross_val_score` and `GridSearchCV` for that, with whole configurations where there is no shortcut.
    """

    def __init__(
        self,
        model: str = "sample:minilm",
        *,
        freeze: Freeze | None = None,
        max_length: int | None = None,
        pooling: Pooling | None = None,
        hidden: int | Sequence[int] | None = None,
        dropout: float | None = None,
        lora_rank: int | None = None,
        head: HeadConfig | HeadKind | None = None,
        transfer: TransferConfig | None = None,
        reading: ReadingConfig | None = None,
        num_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        class_weights: ClassWeights = None,
        training: TrainingConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.freeze = freeze
        self.max_length = max_length
        self.pooling = pooling
        self.hidden = hidden
        self.dropout = dropout
        self.lora_rank = lora_rank
        self.head = head
        self.transfer = transfer
        self.reading = reading
        self.num_epochs = num_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.class_weights = class_weights
        self.training = training
        self.seed = seed

    def __sklearn_tags__(self) -> Tags:
        """Return the tags of an estimator whose X is a list of texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, texts: Sequence[str], labels: Sequence[object]) -> "TextClassifier":
        """Train on texts and as many labels, strings, whole numbers or booleans; return self.

        Lists, arrays and pandas Series will do for both.

        Raises:
            DataError: If there are more or fewer of them than labels, if a label is missing
                or no class, or if there are fewer than two classes.
            ConfigError: If the texts are no list of texts, or a parameter is out of range.
            ValueError: If the labels are a table.
        """
        targets = column_or_1d(labels)
        # As strings: elsewhere in nlptl, -1 means unlabelled, but in scikit-learn it is a class.
        is_whole = np.issubdtype(targets.dtype, np.integer)
        train = Examples.from_lists(as_texts(texts), (targets.astype(str) if is_whole else targets).tolist())
        classes, first = np.unique(targets, return_index=True)
        if len(classes) < 2:
            raise DataError(f"Expected labels of two or more classes, found {classes.tolist()}. Pass more examples.")
        settings = self.get_params(deep=False)
        names = ("num_epochs", "batch_size", "learning_rate", "class_weights")
        training = settings.pop("training")
        if training is not None and not isinstance(training, TrainingConfig):
            raise ConfigError(f"Expected training to be a TrainingConfig or None, found {show(training)}.")
        config = with_shortcuts(training or TrainingConfig(), **{name: settings.pop(name) for name in names})
        if self.freeze is None and self.transfer is None:
            settings["freeze"] = "encoder"
        # The other parameters are those of a classifier.
        classifier = Classifier.from_pretrained(
            settings.pop("model"), labels=[train.labels[i] for i in first], **settings
        )
        Trainer(classifier, config, seed=self.seed).fit(train)
        self.classes_, self.classifier_ = classes, classifier
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each class, float64 [texts, classes], in the order of `classes_`.

        Raises:
            ConfigError: If the texts are no list of texts.
            NotFittedError: Before `fit`.
        """
        check_is_fitted(self)
        probabilities: np.ndarray = self.classifier_.predict_probabilities(texts).numpy()
        return probabilities

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Return the most probable class of each text, shape [texts].

        Raises:
            ConfigError: If the texts are no list of texts.
            NotFittedError: Before `fit`.
        """
        best = self.predict_proba(texts).argmax(axis=1)
        classes: np.ndarray = self.classes_[best]
        return classes
