"""Classifier = encoder + head + labels + tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from nlptl.config import Activation, BinaryLoss, Freeze, HeadConfig, Pooling
from nlptl.data.tokens import Tokens, tokenize
from nlptl.errors import ConfigError
from nlptl.labels import Labels
from nlptl.model import freezing
from nlptl.model.build import build_network, check_head
from nlptl.model.encoder import (
    find_model,
    load_tokenizer,
    load_weights,
    max_positions,
    quiet_transformers,
    read_config,
)
from nlptl.model.folder import CARD, Card, new_folder, read_card, write_card
from nlptl.model.heads import pool
from nlptl.model.inference import evaluating, map_texts
from nlptl.tasks.single_label import probabilities

MAX_LENGTH = 256
"""Tokens of a text that are read where nothing else is said."""


@dataclass(frozen=True)
class Prediction:
    """The most probable label of a text, its probability, and the probability of every label by name."""

    label: str
    probability: float
    probabilities: dict[str, float]


class Classifier(nn.Module):
    """A pretrained encoder with a classification head, its tokenizer, and the names of its labels.

    `network` is the transformers model that is trained and saved; `head` says what its head reads, and its shape.
    """

    network: Any  # a PreTrainedModel; its parts differ by family, which no type says

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        labels: Labels,
        *,
        head: HeadConfig,
        max_length: int | None,
        source: str,
        new_names: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.labels = labels
        self.head = head
        self.source = source
        prefix = network.base_model_prefix + "."
        names = [name for name, _ in network.named_parameters()]
        self.head_names = frozenset(name for name in names if not name.startswith(prefix)) | new_names
        reads_pooler = head.pooling == "native"
        self.unused_names = frozenset(n for n in names if n.startswith(f"{prefix}pooler.") and not reads_pooler)
        # Below the special tokens and one more, tokenizers does not truncate.
        least, most = tokenizer.num_special_tokens_to_add() + 1, max_positions(network.base_model)
        self.max_length = min(MAX_LENGTH, most) if max_length is None else max_length
        if not least <= self.max_length <= most:
            raise ConfigError(
                f"Expected max_length from {least} to {most}, what tokenizer and encoder take, found {max_length}."
            )
        self.freeze("nothing")

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        labels: Labels | Sequence[str] | None = None,
        freeze: Freeze = "nothing",
        pooling: Pooling = "auto",
        hidden: int | None = None,
        activation: Activation | None = None,
        dropout: float | None = None,
        binary_loss: BinaryLoss = "softmax",
        max_length: int | None = None,
        seed: int = 0,
    ) -> "Classifier":
        """Load an encoder and put a new head on it; or, without `labels`, a classifier that nlptl has saved.

        Args:
            name: `sample:minilm`, a model folder, or a Hub id (`owner/name@revision` to pin it).
            labels: Names of the classes in the order of their ids; the head is new. None: load a saved classifier
                with its own head, labels, pooling and max_length.
            freeze: What keeps its pretrained weights: "nothing", "embeddings", "encoder", or the number of lowest
                layers (the embeddings included).
            pooling: What the head reads. "native": the architecture's own head. "cls", "mean", "max": over the last
                hidden states. "auto": "native" when the encoder trains, "mean" when it is frozen.
            hidden: Units of a dense layer in the head; None: a linear head. Not with the native head.
            activation: Activation of the dense layer; None: relu.
            dropout: Probability of every dropout in encoder and head; None: as in the checkpoint.
            binary_loss: "sigmoid" gives a binary head one logit and the binary cross-entropy.
            max_length: Tokens of a text that are read, special tokens included. None: 256, or fewer if the encoder
                takes fewer.
            seed: Seeds the new weights.

        Raises:
            ConfigError: If a setting is out of range, contradicts another one, or does not fit the encoder.
            UntrustedFileError: If a file of the model is damaged or could run code.
            ResourceError: If a Hub id cannot be downloaded.
        """
        if labels is None:
            if (pooling, hidden, activation, dropout, binary_loss) != ("auto", None, None, None, "softmax"):
                raise ConfigError(
                    "Expected no pooling, hidden, activation, dropout or binary_loss for a saved classifier, which "
                    "brings its own. Leave them out, or pass labels= to put a new head on its encoder."
                )
            model = cls._load_saved(find_model(str(name)), source=str(name), max_length=max_length)
        else:
            names = labels if isinstance(labels, Labels) else _labels(labels)
            resolved = ("mean" if freeze == "encoder" else "native") if pooling == "auto" else pooling
            head = HeadConfig(
                pooling=resolved, hidden=hidden, activation=activation, dropout=dropout, binary_loss=binary_loss
            )
            check_head(head, names)
            folder = find_model(str(name))
            config = read_config(folder)  # Before the tokenizer, since it is what looks for code.
            tokenizer = load_tokenizer(folder)
            num_ids = max(tokenizer.get_vocab().values()) + 1
            network, new_names = build_network(folder, config, names, head, num_ids=num_ids, seed=seed)
            model = cls(
                network, tokenizer, names, head=head, max_length=max_length, source=str(name), new_names=new_names
            )
        model.freeze(freeze)
        return model

    @classmethod
    def _load_saved(cls, folder: Path, *, source: str, max_length: int | None) -> "Classifier":
        if (folder / "model" / CARD).is_file():
            raise ConfigError(f"Expected the model folder of a run, found the run. Pass {folder / 'model'}.")
        if not (folder / CARD).is_file():
            raise ConfigError(
                f"Expected labels for a new head, or a folder that nlptl has saved; found no {CARD} in {folder}. "
                "Pass labels=, or the model/ folder of a run."
            )
        config, tokenizer = read_config(folder), load_tokenizer(folder)
        card = read_card(folder, config, tokenizer)
        network, _ = load_weights(AutoModelForSequenceClassification, folder, config)
        length = card.max_length if max_length is None else max_length
        return cls(network, tokenizer, card.labels, head=card.head, max_length=length, source=source)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.network.device
        return device

    @property
    def trains_head_only(self) -> bool:
        """Whether no parameter outside the head gets a gradient."""
        return all(name in self.head_names for name, p in self.network.named_parameters() if p.requires_grad)

    @property
    def head_is_linear(self) -> bool:
        """Whether the head is a single layer: one weight and one bias."""
        return len(self.head_names) == 2

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether nothing below the head's input gets a gradient, so that its output can be computed once."""
        return not any(parameter.requires_grad for parameter in self.network.base_model.parameters())

    def freeze(self, what: Freeze) -> None:
        """Set what keeps its weights from now on: "nothing", "embeddings", "encoder", or the lowest n layers.

        The head never changes and always trains. Frozen parts stay in eval mode, also in `train()`.

        Raises:
            ConfigError: If the encoder does not have that many layers.
        """
        freezing.freeze(self.network, what, head_names=self.head_names, unused_names=self.unused_names)
        self.frozen = what
        self.train(self.training)

    def describe_training(self) -> str:
        """Return one line that says in words what trains."""
        return freezing.describe_training(self.network, self.frozen, head_names=self.head_names)

    def train(self, mode: bool = True) -> "Classifier":
        """Set train or eval mode; frozen parts are in eval mode either way."""
        super().train(mode)
        if mode:
            freezing.eval_frozen_parts(self.network)
        return self

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits [batch, labels] of token ids [batch, tokens], or of the `features` of texts [batch, width]."""
        if features is None:
            logits: torch.Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask).logits
        elif self.head.pooling == "native":
            logits = self._native_head(features)
        else:
            logits = self.network.head(features)
        return logits

    def features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return what the head reads of token ids [batch, tokens]: shape [batch, width]."""
        features: torch.Tensor
        if self.head.pooling != "native":
            features = self.network.features(input_ids, attention_mask)
            return features
        outputs = self.network.base_model(input_ids=input_ids, attention_mask=attention_mask)
        if "pooler_output" in outputs:
            features = outputs.pooler_output
            return features
        # Stock heads read the first token; modernbert's configuration may ask for the mean instead.
        config = self.network.config.to_dict()
        return pool(outputs.last_hidden_state, attention_mask, config.get("classifier_pooling", "cls"))

    def _native_head(self, features: torch.Tensor) -> torch.Tensor:
        # The stock classes have no entry between encoder and head, so the encoder's forward is replaced for one call
        # by one that returns the features: as the pooled output, and as the hidden state of a text of one token.
        encoder = self.network.base_model
        outputs = BaseModelOutputWithPooling(last_hidden_state=features[:, None], pooler_output=features)
        encoder.forward = lambda *args, **kwargs: outputs
        try:
            logits: torch.Tensor = self.network(input_ids=None).logits
        finally:
            del encoder.forward
        return logits

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Return the token ids of `texts`, at most max_length of each."""
        return tokenize(texts, self.tokenizer, max_length=self.max_length)

    def predict_probabilities(self, texts: Sequence[str], *, progress: str | None = None) -> torch.Tensor:
        """Return the probability of each label for each text, float64 [texts, labels].

        Raises:
            ConfigError: If `texts` is a single string, or something in it is not one.
        """
        if isinstance(texts, str):
            raise ConfigError(
                f"Expected a list of texts, found the string {texts[:40]!r}. Pass [text] for a single one."
            )
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ConfigError(f"Expected texts, found {text!r} at position {i}. Leave it out, or pass ''.")
        if len(texts) == 0:
            return torch.zeros(0, len(self.labels), dtype=torch.float64)
        tokens = self.tokenize(texts)
        with evaluating(self):
            logits, _ = map_texts(self, tokens, pad_id=self.pad_id, device=self.device, progress=progress)
        return probabilities(logits.cpu())

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the label of each text by name, with probabilities. Texts are run sorted by length, in batches.

        Raises:
            ConfigError: If `texts` is a single string, or something in it is not one.
        """
        predictions = []
        for row in self.predict_probabilities(texts).tolist():
            best = max(range(len(row)), key=row.__getitem__)
            by_name = dict(zip(self.labels.names, row, strict=True))
            predictions.append(Prediction(self.labels.names[best], row[best], by_name))
        return predictions

    @property
    def pad_id(self) -> int:
        """Token id that fills up shorter texts."""
        return int(self.tokenizer.pad_token_id)

    def save(self, directory: str | Path) -> None:
        """Write the model folder: stock transformers files, and `nlptl.json` with labels and settings.

        The folder appears whole or not at all; a model folder that is there already is replaced.

        Raises:
            ConfigError: If `directory` holds something else than a model that nlptl has saved.
            ResourceError: If the disk is full or cannot be written.
        """
        card = Card(labels=self.labels, head=self.head, max_length=self.max_length, source=self.source)
        with new_folder(Path(directory).absolute()) as folder, quiet_transformers():
            self.network.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            write_card(folder, card, self.tokenizer)


def _labels(names: Sequence[str]) -> Labels:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"Expected labels as a list of names, found {names!r}. Pass for instance ['negative', 'positive']."
        )
    return Labels(tuple(names))
