"""TextClassifier: the scikit-learn face of the same parts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from nlptl.config import Activation, BinaryLoss, Freeze, Pooling, TrainingConfig
from nlptl.data.sources import Examples
from nlptl.errors import DataError
from nlptl.model.classifier import Classifier
from nlptl.training.trainer import Trainer


class TextClassifier(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier over texts: a pretrained encoder, frozen unless said otherwise, and a head.

    Every parameter means what it means in `Classifier.from_pretrained` and `TrainingConfig`. It trains for `num_epochs`
    on all that `fit` gets, writes no files, and chooses nothing on held-out data; that is what `cross_val_score` and
    `GridSearchCV` are for.
    """

    def __init__(
        self,
        model: str = "sample:minilm",
        *,
        freeze: Freeze = "encoder",
        pooling: Pooling = "auto",
        hidden: int | None = None,
        activation: Activation | None = None,
        dropout: float | None = None,
        binary_loss: BinaryLoss = "softmax",
        max_length: int | None = None,
        num_epochs: int = 10,
        batch_size: int = 32,
        learning_rate: float | None = None,
        head_learning_rate: float | None = None,
        optimizer: Literal["adamw", "adam", "sgd"] = "adamw",
        weight_decay: float | None = None,
        label_smoothing: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.freeze = freeze
        self.pooling = pooling
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.binary_loss = binary_loss
        self.max_length = max_length
        self.num_epochs = num_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.seed = seed

    def __sklearn_tags__(self) -> Tags:
        """Say that X is a list of texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, texts: Sequence[str], labels: Sequence[object]) -> "TextClassifier":
        """Train on texts and as many labels, of any type that sorts; return self.

        Raises:
            DataError: If the texts are no texts, or if there are fewer than two classes.
            ConfigError: If a parameter is out of range.
        """
        self.classes_, ids = np.unique(np.asarray(labels), return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"Expected labels of two or more classes, found {self.classes_.tolist()}.")
        config = TrainingConfig(
            num_epochs=self.num_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            head_learning_rate=self.head_learning_rate,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
        )
        self.classifier_ = Classifier.from_pretrained(
            self.model,
            labels=[str(name) for name in self.classes_],
            freeze=self.freeze,
            pooling=self.pooling,
            hidden=self.hidden,
            activation=self.activation,
            dropout=self.dropout,
            binary_loss=self.binary_loss,
            max_length=self.max_length,
            seed=self.seed,
        )
        train = Examples.from_lists(texts, [str(self.classes_[i]) for i in ids])
        Trainer(self.classifier_, config, seed=self.seed).fit(train)
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each class, float64 [texts, classes], in the order of `classes_`."""
        check_is_fitted(self)
        probabilities: np.ndarray = self.classifier_.predict_probabilities(list(texts)).numpy()
        return probabilities

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Return the most probable class of each text, shape [texts]."""
        classes: np.ndarray = self.classes_[self.predict_proba(texts).argmax(axis=1)]
        return classes
