"""Classifier = encoder + head + labels + tokenizer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from nlptl.config import (
    Freeze,
    HeadConfig,
    HeadKind,
    Pooling,
    ReadingConfig,
    TrainOnly,
    TransferConfig,
    part_of,
    with_shortcuts,
)
from nlptl.data.batches import collate
from nlptl.data.given import as_texts
from nlptl.data.tokens import Tokens, num_chunks, tokenize, tokenize_pairs, tokenize_words
from nlptl.errors import ConfigError
from nlptl.labels import Labels
from nlptl.model import freezing
from nlptl.model.adaptation import adapt_encoder
from nlptl.model.adapters import has_adapters, merged_state_dict, save_adapter
from nlptl.model.boundary import can_be_cut, starting_from
from nlptl.model.chunks import check_reading
from nlptl.model.encoder import FAMILIES, max_positions, quiet_transformers
from nlptl.model.folder import Card, forget_paths, new_folder, write_card
from nlptl.model.freezing import check_transfer
from nlptl.model.headed_config import HeadedConfig
from nlptl.model.inference import ModelLock, evaluating, map_rows
from nlptl.model.native import native_features, native_logits, native_pooling, unread_names
from nlptl.model.onnx_runtime import FILES, Engine, OnnxNetwork, write_onnx
from nlptl.model.packing import can_pack, without_padding
from nlptl.model.parts import find_parts
from nlptl.model.pretrained import label_names, load_encoder, load_saved, merged_reading
from nlptl.model.quick import quick_layers
from nlptl.tasks.regression import Regression
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.task import Task
from nlptl.values import Count, Seed, checked

MAX_LENGTH = 256
"""Tokens of a text that are read where nothing else is said."""


class Classifier(nn.Module):
    """A pretrained encoder with a head, its tokenizer, and the task: what it predicts, such as one of several labels.

    `network` is the transformers model that is trained and saved; `head` says what its head reads, and its shape;
    `transfer` what of the encoder trains; `reads_pairs` whether it reads two texts at once.

    It is in eval mode, except while it is trained. Several threads may predict with it at once: they take turns, batch
    by batch, and wait while it is trained.
    """

    network: Any  # a PreTrainedModel; its parts differ by family, which no type says

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        card: Card,
        *,
        new_names: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.lock = ModelLock()  # a pass through the network changes its modules for a while, and so does training
        self.network = network
        self.tokenizer = tokenizer
        task, head = card.task, card.head
        reading = replace(card.reading, long_text=card.reading.long_text or "head")
        self.task = task
        self.head = head
        self.reads_pairs = card.reads_pairs
        self.source = card.source
        prefix = network.base_model_prefix + "."
        names = [name for name, _ in network.named_parameters()]
        self.head_names = frozenset(name for name in names if not name.startswith(prefix)) | new_names
        reads_native = head.pooling == "native" and not task.is_per_token
        self.native_pooling = native_pooling(network) if reads_native else None
        reads_pooler = self.native_pooling == "pooler"
        self.unused_names = frozenset(n for n in names if n.startswith(f"{prefix}pooler.") and not reads_pooler)
        encoder = cast(PreTrainedModel, network.base_model)
        if encoder.config.model_type not in FAMILIES and head.head == "dense":
            self.unused_names |= unread_names(network)
        # Below the special tokens and one more, tokenizers does not truncate.
        least, most = tokenizer.num_special_tokens_to_add(pair=self.reads_pairs) + 1, max_positions(encoder)
        self.max_length = min(MAX_LENGTH, most) if reading.max_length is None else reading.max_length
        if not least <= self.max_length <= most:
            raise ConfigError(
                f"Expected max_length from {least} to {most}, what tokenizer and encoder take, found {self.max_length}."
            )
        if head.chunk_pooling == "attention" and not reading.in_chunks:
            raise ConfigError(
                "Expected long_text 'chunks' for a head that pools chunks by weights of its own, found "
                f"chunk_pooling='attention' with {reading.long_text!r}. Leave long_text out, or pass labels= or task= "
                "to put a new head on the encoder."
            )
        # A mean or a maximum of chunks is no part of a saved head that reads something else.
        check_reading(reading, replace(head, chunk_pooling="mean"), task, reads_pairs=self.reads_pairs)
        overlap, largest = reading.chunk_overlap, self.max_length - least
        if overlap is not None and overlap > largest:
            raise ConfigError(
                f"Expected chunk_overlap from 0 to {largest}, for a chunk of {self.max_length} tokens, special ones "
                f"included, to go beyond the one before, found {overlap}. Lower chunk_overlap, raise --max-length, or "
                "leave chunk_overlap out for a quarter."
            )
        max_chunks = num_chunks(reading) if reading.in_chunks else None
        self.reading = replace(reading, max_length=self.max_length, max_chunks=max_chunks)
        if isinstance(network.config, HeadedConfig):
            network.config.chunk_length = self.max_length if self.reading.in_chunks else None
        self.parts = find_parts(encoder)
        if self.parts.runs_in_turn and encoder.config.model_type not in FAMILIES:
            self.parts = replace(self.parts, runs_in_turn=can_be_cut(encoder, self.parts))
        self.transfer = TransferConfig()
        self.is_padding_free: bool | None = None
        self.is_quick = True  # whether `quick_layers` may change how layers compute
        self.checkpoints_gradients = False
        self.onnx: OnnxNetwork | None = None  # what computes logits in its place
        self.freeze("nothing")
        self.eval()

    @classmethod
    @checked
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        labels: Labels | Sequence[str] | None = None,
        task: Task | None = None,
        pairs: bool = False,
        freeze: Freeze | None = None,
        max_length: int | None = None,
        pooling: Pooling | None = None,
        hidden: Count | Sequence[int] | None = None,
        dropout: float | None = None,
        lora_rank: int | None = None,
        head: HeadConfig | HeadKind | None = None,
        transfer: TransferConfig | None = None,
        reading: ReadingConfig | None = None,
        seed: Seed = 0,
    ) -> "Classifier":
        """Load an encoder and put a new head on it; or, without `labels` or `task`, a classifier that nlptl has saved.

        Args:
            name: `sample:minilm`, a model folder, or a Hub id (`owner/name@revision` to pin it).
            labels: Names of the classes in the order of their ids; the head is new. None: load a saved classifier
                with its own head, labels, pooling and max_length.
            task: What is predicted, in place of `labels`, where it is something else than one label for each text: what
                `make_task(splits)` returns, or for instance `MultiLabel(("joy", "love"))`.
            pairs: Whether it reads two texts at once, which the tokenizer joins.
            freeze: What keeps its pretrained weights: "nothing", "embeddings", "encoder", or the number of lowest
                layers (with the embeddings). This and what follows, to `lora_rank`, are shortcuts for fields of the
                three configurations below; None: as they say.
            max_length: Tokens of a text that are read, special tokens included.
            pooling: What the head reads: "native", "cls", "mean", "max", "attention", or "auto".
            hidden: Units of a dense layer in the head, or of several in sequence.
            dropout: Probability of every dropout in encoder and head.
            lora_rank: Rank of low-rank updates that train in place of the encoder's weights.
            head: The head, or its kind, such as "logistic". A saved classifier brings its own.
            transfer: What is frozen, what trains, and what is added to the encoder.
            reading: How much of a text is read, and which part of a longer one. None: as in `ReadingConfig`, or as a
                saved classifier reads it.
            seed: Seeds the new weights.

        Raises:
            ConfigError: If a setting is out of range, contradicts another one, or does not fit the encoder.
            UntrustedFileError: If a file of the model is damaged or could run code.
            ResourceError: If a Hub id cannot be downloaded.
        """
        transfer = with_shortcuts(transfer or TransferConfig(), freeze=freeze, lora_rank=lora_rank)
        check_transfer(transfer)
        units = (hidden,) if isinstance(hidden, int) else hidden if hidden is None else tuple(hidden)
        wanted = HeadConfig(head=head) if isinstance(head, str) else head or HeadConfig()
        wanted = with_shortcuts(wanted, pooling=pooling, hidden=units, dropout=dropout)
        reading = with_shortcuts(part_of(ReadingConfig, reading or ReadingConfig()), max_length=max_length)
        if labels is not None and task is not None:
            raise ConfigError("Expected labels or a task, found both. Pass one of the two.")
        wanted_task = SingleLabel(label_names(labels)) if labels is not None else task
        if wanted_task is None:
            loaded = load_saved(str(name), wanted, transfer, reads_pairs=pairs)
        else:
            new = Card(task=wanted_task, reads_pairs=pairs, head=wanted, reading=reading, source=str(name))
            loaded = load_encoder(new, transfer, seed=seed)
        card = replace(loaded.card, reading=merged_reading(reading, loaded.card.reading), source=str(name))
        model = cls(loaded.network, loaded.tokenizer, card, new_names=loaded.new_names)
        if wanted_task is None and isinstance(card.task, Regression):
            model.task = Regression(card.task.names)
            model.rescale(card.task)
        freezing.check_freeze(model.parts, transfer)
        adapt_encoder(model.network, model.parts, transfer, seed=seed)
        model.transfer = transfer
        model.freeze(transfer.freeze, train_only=transfer.train_only)
        return model

    @property
    def labels(self) -> Labels:
        """The names of what it tells apart.

        Raises:
            DataError: If it gives scores.
        """
        return self.task.labels

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
        """Whether what the head does after pooling is a single layer: one weight and one bias."""
        pools = ("head.attention.", "head.chunk_attention.", "head.mix.")
        return sum(not name.startswith(pools) for name in self.head_names) == 2

    @property
    def head_is_fitted(self) -> bool:
        """Whether the head is fitted in closed form (`nlptl.training.closed_form`): it has no parameters that train."""
        return self.head.head != "dense"

    @property
    def lowest_layer_read(self) -> int:
        """The lowest layer whose output the head reads, counted from 1; 0: the embeddings' output."""
        if self.head.layers == "mix":
            return 0
        num_layers = int(self.network.base_model.config.num_hidden_layers)
        return num_layers if self.head.layers == "last" else num_layers - self.head.layers + 1

    @property
    def features_are_constant(self) -> bool:
        """Whether what the head reads never changes while it trains, so that it can be computed once."""
        pools_by_learning = "attention" in (self.head.pooling, self.head.chunk_pooling)
        return self.encoder_is_frozen and not pools_by_learning and not self.task.is_per_token

    @property
    def has_adapters(self) -> bool:
        """Whether low-rank updates train in place of the encoder's weights."""
        return has_adapters(self.network)

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether nothing below the head's input gets a gradient, so that its output can be computed once."""
        return not any(parameter.requires_grad for parameter in self.network.base_model.parameters())

    @property
    def num_frozen_layers(self) -> int:
        """How many of the lowest layers never change, the embeddings included, so that their output never does."""
        names = frozenset(name for name, p in self.network.named_parameters() if p.requires_grad)
        return freezing.num_frozen_layers(self.parts, self.groups, names)

    @property
    def groups(self) -> dict[str, str]:
        """Where each parameter stands: "embeddings", "layer 1", ..., "final norm", "pooler" or "head"."""
        return self.parts.group_parameters(self.network, self.head_names)

    def freeze(self, what: Freeze, *, train_only: TrainOnly | None = None, top: int | None = None) -> None:
        """Set what keeps its weights from now on. The head always trains; frozen parts are in eval mode either way.

        Args:
            what: "nothing", "embeddings", "encoder", or the number of lowest layers, the embeddings included.
            train_only: What trains of the rest of the encoder: "norms", "biases" (BitFit), or nothing of it: "head".
            top: Layers, counted from the top, that may train; 0: the head alone. None: all that are not frozen. For the
                stages of a training: `Trainer.fit` sets it anew.

        Raises:
            ConfigError: If the encoder does not have that many layers, or nothing is left that could train.
        """
        transfer = TransferConfig(freeze=what, train_only=train_only)
        freezing.check_freeze(self.parts, transfer)
        names = freezing.trained_names(self.network, self.parts, self.groups, transfer, self.unused_names, top=top)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad = name in names
        self.transfer = replace(self.transfer, freeze=transfer.freeze, train_only=train_only)
        self.train(self.training)

    def describe_training(self) -> str:
        """Return one line that says in words what trains."""
        return freezing.describe_training(self.network, self.parts, self.groups, self.transfer, self.unused_names)

    def train(self, mode: bool = True) -> "Classifier":
        """Set train or eval mode; frozen parts are in eval mode either way."""
        with self.lock:
            super().train(mode)
            if mode:
                freezing.eval_frozen_parts(self.network)
        return self

    def checkpoint_gradients(self, wanted: bool) -> None:
        """Set whether layers that train keep nothing but their input for the gradient, and compute the rest anew.

        Raises:
            ConfigError: If the encoder cannot do that.
        """
        modules = self.network.base_model.modules()
        layers: list[Any] = [module for module in modules if isinstance(module, GradientCheckpointingLayer)]
        if wanted and not layers:
            family = self.network.base_model.config.model_type
            raise ConfigError(
                f"Expected an encoder whose layers can be computed anew, found {family}. Leave "
                "gradient_checkpointing out; --micro-batch-tokens bounds memory too."
            )
        for layer in layers:
            layer.gradient_checkpointing = wanted
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        self.checkpoints_gradients = wanted

    def leave_padding_out(self, wanted: bool | None) -> None:
        """Set whether the layers of the encoder see no padding. None: on a CPU they do not, if they can do without.

        Raises:
            ConfigError: If it is True, and the encoder or the head needs padding.
        """
        if wanted and not self._can_leave_padding_out:
            family, layers = self.network.base_model.config.model_type, self.head.layers
            found = family if layers == "last" else f"a head over layers={layers!r}"
            raise ConfigError(
                f"Expected an encoder and a head that can do without padding for padding_free, found {found}. Leave "
                "it out: texts are padded then."
            )
        self.is_padding_free = wanted

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
        depth: int = 0,
        **token_types: torch.Tensor,
    ) -> torch.Tensor:
        """Return logits [batch, labels] of token ids [batch, tokens]; for tags of words [batch, tokens, labels].

        What was computed before may be given too: the `features` of texts [batch, width], then without token ids; or
        the `hidden` states [batch, tokens, width] after the lowest `depth` layers.
        """
        if self.onnx is not None and not self.training and input_ids is not None and hidden is None:
            assert attention_mask is not None
            return self.onnx(input_ids=input_ids, attention_mask=attention_mask, **token_types).to(self.device)
        if features is None:
            with self._running(depth, hidden):
                outputs = self.network(input_ids=input_ids, attention_mask=attention_mask, **token_types)
            logits: torch.Tensor = outputs.logits
        else:
            with self.lock:
                is_native = self.head.pooling == "native"
                logits = native_logits(self.network, features) if is_native else self.network.head(features)
        return logits

    def features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **token_types: torch.Tensor
    ) -> torch.Tensor:
        """Return what the head reads of token ids [batch, tokens]: shape [batch, width]."""
        with self._running():
            if self.head.pooling == "native":
                assert self.native_pooling is not None
                return native_features(self.network, self.native_pooling, input_ids, attention_mask, **token_types)
            features: torch.Tensor = self.network.features(input_ids, attention_mask, **token_types)
            return features

    @contextmanager
    def _running(self, depth: int = 0, hidden: torch.Tensor | None = None) -> Iterator[None]:
        """Prepare the modules for one pass of this thread: quick layers, and no padding, where that is possible.

        With `hidden`, the pass starts from these states above the lowest `depth` layers.
        """
        with self.lock, ExitStack() as stack:
            if not (self.training and self.checkpoints_gradients):  # a layer computes once more after the pass
                stack.enter_context(quick_layers(self))
            if hidden is not None:
                stack.enter_context(starting_from(self.parts, depth, hidden))
            if self.leaves_padding_out and depth < self.parts.num_layers:
                encoder = self.network.base_model
                first_only = self.head.pooling == "cls" or self.native_pooling in ("cls", "pooler")
                stack.enter_context(without_padding(encoder, self.parts, depth=depth, first_only=first_only))
            yield

    @property
    def leaves_padding_out(self) -> bool:
        """Whether the layers of the encoder see no padding: that is wanted on this device, and they can do without."""
        # What it brings on an accelerator is not measured yet.
        is_wanted = self.device.type == "cpu" if self.is_padding_free is None else self.is_padding_free
        # A layer that is computed once more knows nothing of where the tokens of its batch stood.
        is_wanted = is_wanted and not (self.training and self.checkpoints_gradients)
        return is_wanted and self._can_leave_padding_out

    @property
    def _can_leave_padding_out(self) -> bool:
        # A head that reads several layers asks the encoder for all of them, padded.
        with self.lock:
            return self.head.layers == "last" and can_pack(self.network.base_model, self.parts)

    def tokenize(self, texts: Sequence[str], pairs: Sequence[str] = ()) -> Tokens:
        """Return the token ids of `texts`, at most max_length of each, or of each of its chunks.

        Where pairs are read, `pairs` has the second texts.
        """
        if self.reads_pairs:
            return tokenize_pairs(
                texts,
                pairs,
                self.tokenizer,
                max_length=self.max_length,
                long_text=self.reading.long_text,
                with_types=getattr(self.network.base_model.config, "type_vocab_size", 0) > 1,
            )
        if self.task.is_per_token:
            return tokenize_words(texts, self.tokenizer, max_length=self.max_length)
        return tokenize(texts, self.tokenizer, self.reading)

    def predict_logits(
        self, texts: Sequence[str], pairs: Sequence[str] = (), *, progress: str | None = None
    ) -> torch.Tensor:
        """Return the logits of each text, on the CPU [texts, names].

        For tags of words, texts are words with a blank between two, and the result is one row for each word.

        Raises:
            ConfigError: If `texts` is a single string, something in it is not one, or there are no second texts where
                pairs are read.
        """
        texts, pairs = self._given(texts, pairs)
        if len(texts) == 0:
            return torch.zeros(0, len(self.task.names))
        tokens = self.tokenize(texts, pairs)
        logits = self._map(self, tokens, progress, offsets=tokens.offsets if self.task.is_per_token else None)
        return self.task.by_word(logits.cpu(), tokens, texts)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] = (), *, progress: str | None = None) -> np.ndarray:
        """Return what the head reads of each text, float32 [texts, width]: to search in, or for another model to read.

        Raises:
            ConfigError: As `predict_logits` does, or if the head reads every token by itself.
        """
        texts, pairs = self._given(texts, pairs)
        if self.task.is_per_token:
            raise ConfigError(
                "Expected a task with one vector for each text, found tags of words. Load the model for another task."
            )
        tokens = self.tokenize(texts, pairs)
        if len(texts) == 0:
            return np.zeros((0, self.encode([""], [""] * self.reads_pairs).shape[1]), dtype=np.float32)
        found: np.ndarray = self._map(self.features, tokens, progress).cpu().float().numpy()
        return found

    def _map(
        self,
        function: Callable[..., torch.Tensor],
        tokens: Tokens,
        progress: str | None,
        *,
        offsets: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Return what `function` gives for batches of texts, in the order of the texts."""
        with evaluating(self):
            results, _ = map_rows(
                lambda rows: function(**collate(tokens, rows, pad_id=self.pad_id, device=self.device)),
                tokens.lengths,
                device=self.device,
                progress=progress,
                offsets=offsets,
            )
        return results

    def predict_outputs(
        self, texts: Sequence[str], pairs: Sequence[str] = (), *, progress: str | None = None
    ) -> np.ndarray:
        """Return what the task makes of the logits of each text, float64: probabilities or scores [texts, names].

        For tags of words, as `predict_logits`.

        Raises:
            ConfigError: As `predict_logits` does.
        """
        return self.task.outputs(self.predict_logits(texts, pairs, progress=progress))

    def predict_probabilities(
        self, texts: Sequence[str], pairs: Sequence[str] = (), *, progress: str | None = None
    ) -> torch.Tensor:
        """Return the probability of each label for each text, float64 [texts, labels]: `predict_outputs` as a tensor.

        Raises:
            ConfigError: As `predict_outputs` does.
        """
        return torch.from_numpy(self.predict_outputs(texts, pairs, progress=progress))

    def predict(self, texts: Sequence[str], pairs: Sequence[str] = ()) -> list[Any]:
        """Return what is predicted for each text, by name. Texts are run sorted by length, in batches.

        That is a `Prediction` where each text has one label; for other tasks what their `predictions` return: labels,
        scores, or for tags of words the spans in each text. Where pairs are read, `pairs` has the second texts.

        Raises:
            ConfigError: As `predict_outputs` does.
        """
        texts, pairs = self._given(texts, pairs)
        read = self.task.readable(texts)
        return list(self.task.answers(self.predict_logits(read, pairs), read, texts))

    def _given(self, texts: object, pairs: object) -> tuple[list[str], list[str]]:
        """Return the texts and the second texts that were passed as lists of strings."""
        first, second = as_texts(texts), as_texts(pairs, "second texts")
        if len(second) != (len(first) if self.reads_pairs else 0):
            wanted = f"{len(first)} second texts, one for each text" if self.reads_pairs else "single texts"
            way_out = "Pass them as pairs=" if self.reads_pairs else "Leave pairs= out"
            raise ConfigError(
                f"Expected {wanted}, as the model was trained, found {len(second)} second texts. {way_out}."
            )
        return first, second

    @torch.no_grad()
    def rescale(self, task: Regression) -> None:
        """Put another scale of the scores than the one of now around the last layer, so that the scores stay."""
        for name, values in self._rescaled(task).items():
            self.network.get_parameter(name).copy_(values)
        self.task = task

    @torch.no_grad()
    def _rescaled(self, task: Regression) -> dict[str, torch.Tensor]:
        """Return the weight and the bias of the last layer, by name, that give the same scores on the scale of `task`.

        With Regression(names), the logits are the scores, as those of a saved model are.
        """
        assert isinstance(self.task, Regression)
        prefix, named = self.network.base_model_prefix + ".", self.network.named_modules()
        linears = [(name, m) for name, m in named if isinstance(m, nn.Linear) and not name.startswith(prefix)]
        name, layer = linears[-1]
        (mean, scale), (new_mean, new_scale) = (
            (torch.from_numpy(each) for each in scaled.scaling()) for scaled in (self.task, task)
        )
        weight, bias = layer.weight.cpu().double(), layer.bias.cpu().double()
        return {
            f"{name}.weight": (weight * (scale / new_scale)[:, None]).to(layer.weight),
            f"{name}.bias": ((bias * scale + mean - new_mean) / new_scale).to(layer.bias),
        }

    def _saved_head(self) -> dict[str, torch.Tensor]:
        """Return parameters of the head that are saved with other values than they have, by name."""
        return self._rescaled(Regression(self.task.names)) if isinstance(self.task, Regression) else {}

    @property
    def pad_id(self) -> int:
        """Token id that fills up shorter texts."""
        return int(self.tokenizer.pad_token_id)

    @checked
    def save(self, directory: str | Path) -> None:
        """Write the model folder: stock transformers files, and `nlptl.json` with labels and settings.

        The folder appears whole or not at all; a model folder that is there already is replaced.

        Raises:
            ConfigError: If `directory` holds something else than a model that nlptl has saved.
            ResourceError: If the disk is full or cannot be written.
        """
        card = Card(
            task=self.task,
            reads_pairs=self.reads_pairs,
            head=self.head,
            reading=self.reading,
            source=self.source,
        )
        with new_folder(Path(directory).absolute()) as folder, quiet_transformers():
            weights = merged_state_dict(self.network) if self.has_adapters else self.network.state_dict()
            self.network.save_pretrained(folder, state_dict=weights | self._saved_head())
            forget_paths(folder)
            self.tokenizer.save_pretrained(folder)
            write_card(folder, card, self.tokenizer)

    @checked
    def export_onnx(self, path: str | Path, *, int8: bool = False) -> None:
        """Write the network as an ONNX file: logits of token ids, of any number of texts of any length.

        Args:
            path: The file; one that is there is replaced. `use_engine` looks for "onnx/model.onnx" and
                "onnx/model_int8.onnx" in the model folder.
            int8: Whether weights are rounded to 8 bits.

        Raises:
            ConfigError: If packages are missing, or the model reads texts in chunks.
            ResourceError: If the file cannot be written.
        """
        if self.reading.in_chunks:
            raise ConfigError(
                "Expected a network of tensors alone for ONNX, found texts in chunks. Predict with torch."
            )
        tokens = self.tokenize(["one two", "three"], ["four", "five"] * self.reads_pairs)
        batch = collate(tokens, np.arange(2), pad_id=self.pad_id, device=torch.device("cpu"))
        device = self.device
        with self.lock, evaluating(self):
            try:
                write_onnx(self.network.cpu(), Path(path), batch=batch, int8=int8)
            finally:
                self.network.to(device)

    @checked
    def use_engine(self, engine: Engine, folder: str | Path) -> None:
        """Compute logits by torch, or by ONNX Runtime, from what `nlptl export` has written into a model folder.

        Raises:
            ConfigError: If it has written none, or ONNX Runtime is not installed.
        """
        self.onnx = None if engine == "torch" else OnnxNetwork(Path(folder) / FILES[engine])

    @checked
    def save_adapter(self, directory: str | Path) -> None:
        """Write the low-rank updates as a stock peft adapter; `PeftModel.from_pretrained` puts it on the encoder.

        With the architecture's own head, the trained head is part of it, and it belongs on the model with that head.

        Raises:
            ConfigError: If there are no low-rank updates, or `directory` holds something else than an adapter.
            ResourceError: If the disk is full or cannot be written.
        """
        if not self.has_adapters:
            raise ConfigError("Expected low-rank updates to save, found none. Pass lora_rank=8 to from_pretrained.")
        folder, head = Path(directory).absolute(), self._saved_head()
        save_adapter(self.network, folder, base=self.source, head_names=self.head_names, instead=head)
