"""Reads what a classifier is made of: from a pretrained encoder and settings of a new head, or from a saved one."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nlptl.config import HeadConfig, ReadingConfig, TransferConfig
from nlptl.data.given import as_list
from nlptl.errors import ConfigError
from nlptl.labels import Labels
from nlptl.model.build import auto_class, build_network
from nlptl.model.chunks import check_reading
from nlptl.model.encoder import find_model, load_tokenizer, load_weights, read_config
from nlptl.model.fitted_heads import check_tensors
from nlptl.model.folder import CARD, Card, read_card
from nlptl.model.head_checks import check_head
from nlptl.model.native import NoOwnHeadError, native_pooling
from nlptl.model.seeding import seeded
from nlptl.values import show

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The parts of a classifier; `new_names` are parameters inside the encoder that the checkpoint lacks."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    card: Card
    new_names: frozenset[str] = frozenset()


def load_encoder(card: Card, transfer: TransferConfig, *, seed: int) -> Loaded:
    """Load the encoder `card.source` and put a new head on it; a pooling "auto" is resolved here, by what is frozen.

    Raises:
        ConfigError: If a setting is out of range, contradicts another one, or does not fit the encoder.
        UntrustedFileError: If a file of the model is damaged or could run code.
        ResourceError: If a Hub id cannot be downloaded.
    """
    task, head = card.task, card.head
    check_reading(card.reading, head, task, reads_pairs=card.reads_pairs)
    encoder_is_frozen = transfer.freeze == "encoder" or transfer.train_only == "head"
    is_free = head.pooling == "auto" and not task.is_per_token
    if head.pooling == "auto":
        needs_pooling = encoder_is_frozen or task.kind == "ordinal" or card.reading.in_chunks
        head = replace(head, pooling="mean" if needs_pooling and not task.is_per_token else "native")
    check_head(head, task, encoder_is_frozen=encoder_is_frozen)
    folder = find_model(card.source)
    config = read_config(folder)  # Before the tokenizer, since it is what looks for code.
    tokenizer = load_tokenizer(folder)
    num_ids = max(tokenizer.get_vocab().values()) + 1
    try:
        network, new_names = build_network(folder, config, task, head, num_ids=num_ids, seed=seed)
        if head.pooling == "native" and not task.is_per_token:
            native_pooling(network)
    except NoOwnHeadError as error:
        if not is_free:
            raise
        head = replace(head, pooling="mean")
        logger.info("%s: pooling mean in place of native: %s", card.source, error.found)
        network, new_names = build_network(folder, config, task, head, num_ids=num_ids, seed=seed)
    return Loaded(network=network, tokenizer=tokenizer, card=replace(card, head=head), new_names=new_names)


def load_saved(name: str, head: HeadConfig, transfer: TransferConfig, *, reads_pairs: bool) -> Loaded:
    """Load a classifier that nlptl has saved; it has its own head, so `head` must be all defaults.

    Raises:
        ConfigError: If a setting contradicts what was saved, or the folder holds no saved classifier.
        UntrustedFileError: If a file of the model is damaged or could run code.
        ResourceError: If a Hub id cannot be downloaded.
    """
    given = [name for name, value in vars(head).items() if value != getattr(HeadConfig(), name)]
    if given:
        raise ConfigError(
            f"Expected no settings of the head for a saved classifier, which brings its own, found {', '.join(given)}. "
            "Leave them out, or pass labels= to put a new head on its encoder."
        )
    folder = find_model(name)
    if (folder / "model" / CARD).is_file():
        raise ConfigError(f"Expected the model folder of a run, found the run. Pass {folder / 'model'}.")
    if not (folder / CARD).is_file():
        raise ConfigError(
            f"Expected labels for a new head, or a folder that nlptl has saved; found no {CARD} in {folder}. "
            "Pass labels=, or the model/ folder of a run."
        )
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    card = read_card(folder, config, tokenizer)
    with seeded(0):  # parameters start from random numbers, which the saved weights replace
        network, _ = load_weights(auto_class(card.task), folder, config)
    if card.head.head != "dense":
        check_tensors(network, folder)
    if reads_pairs and not card.reads_pairs:
        raise ConfigError(
            f"Expected no pairs=True for the model in {name}, which was trained on single texts. Leave it out, or pass "
            "labels= or task= to put a new head on its encoder."
        )
    if card.head.head != "dense" and (transfer.lora_rank is not None or transfer.reinit_layers):
        raise ConfigError(
            f"Expected the encoder that the {card.head.head} head in {name} was fitted to, found lora_rank or "
            "reinit_layers, which change it. Leave them out, or pass labels= to put a new head on the encoder."
        )
    return Loaded(network=network, tokenizer=tokenizer, card=card)


def merged_reading(given: ReadingConfig, saved: ReadingConfig) -> ReadingConfig:
    """Return how a saved classifier reads texts if `given` is passed; what that leaves out stays as it was saved."""
    if given.long_text not in (None, saved.long_text):
        saved = replace(saved, chunk_overlap=None, max_chunks=None)
    return replace(saved, **{name: value for name, value in vars(given).items() if value is not None})


def label_names(names: Labels | Sequence[str]) -> tuple[str, ...]:
    """Return label names, however they are given.

    Raises:
        ConfigError: If they are no list of names.
        DataError: If there are fewer than two, or two that are the same.
    """
    if isinstance(names, Labels):
        return names.names
    given = as_list(names, "labels")
    if not all(isinstance(name, str) for name in given):
        raise ConfigError(
            f"Expected labels as a list of names, found {show(names)}. Pass for instance ['negative', 'positive']."
        )
    return Labels(tuple(map(str, given))).names
