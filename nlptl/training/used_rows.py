"""Trains those rows of the word embeddings that the texts use, in place of the whole table.

A vocabulary has a row for each of its tokens, of which a training reads a part: of all others the gradient is zero, and
an optimizer with decoupled weight decay does nothing but decay them. Here it gets the used rows alone, so that
gradients and its state take their room and time, and the others are decayed by themselves. Updates are those of the
whole table, up to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from nlptl.config import TrainingConfig
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier
from nlptl.model.parts import EMBEDDINGS
from nlptl.training.inputs import Inputs
from nlptl.training.optimizer import weight_decays

LARGEST_SHARE = 0.5
"""Of a table, the share of used rows from which on copying them takes as long as their updates save."""
IDS_AT_ONCE = 2**20
"""Token ids that are looked through at once: all of them may be in a file that is larger than memory."""


class UsedRows:
    """The rows of a table of embeddings that an optimizer updates: `parameter` [rows, width].

    In each step `take_gradient` comes after the backward passes, and `put_back` after the update.
    """

    def __init__(self, embedding: nn.Embedding, ids: np.ndarray, *, is_sparse: bool) -> None:
        """Copy the rows `ids`; `is_sparse` says that no gradient of the whole table is to be made."""
        self.embedding, self.is_sparse = embedding, is_sparse
        self.table = cast(nn.Parameter, embedding.weight)
        device = self.table.device
        self.ids = torch.from_numpy(ids).to(device)
        self.parameter = nn.Parameter(self.table.detach()[self.ids])
        self._places = torch.full((embedding.num_embeddings,), -1, device=device)
        self._places[self.ids] = torch.arange(len(ids), device=device)
        self._is_checked = False

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within it, the rows get the gradient of every backward pass, where it is sparse."""
        before, self.embedding.sparse = self.embedding.sparse, self.is_sparse
        # At once: sparse gradients that are added up take the memory of all tokens of a step.
        hook = self.table.register_post_accumulate_grad_hook(self._add) if self.is_sparse else None
        try:
            yield
        finally:
            self.embedding.sparse = before
            self.table.grad = None
            if hook is not None:
                hook.remove()

    def take_gradient(self) -> None:
        """Move the gradient of the whole table to the rows, where it is not sparse.

        Raises:
            ConfigError: If other rows have a gradient, in the first step.
        """
        gradient, self.table.grad = self.table.grad, None
        if gradient is None:
            return
        self.parameter.grad = gradient[self.ids]
        if not self._is_checked:  # An accelerator would be waited for in every step.
            self._is_checked = True
            _refuse_others(int(gradient.any(dim=1).sum()) - int(self.parameter.grad.any(dim=1).sum()))

    def _add(self, table: torch.Tensor) -> None:
        gradient, table.grad = table.grad, None
        assert gradient is not None
        if not gradient.is_sparse:
            _refuse_others(len(table) - len(self.ids))
        places = self._places[gradient._indices()[0]]
        _refuse_others(int((places < 0).sum()))
        if self.parameter.grad is None:
            self.parameter.grad = torch.zeros_like(self.parameter)
        self.parameter.grad.index_add_(0, places, gradient._values())

    def put_back(self, optimizer: torch.optim.Optimizer) -> None:
        """Write the rows to the table, and decay all others as `optimizer` has decayed these."""
        if self.parameter.grad is None:
            return
        group = next(g for g in optimizer.param_groups if any(p is self.parameter for p in g["params"]))
        with torch.no_grad():
            if decay := group["lr"] * group["weight_decay"]:
                self.table.mul_(1 - decay)
            self.table[self.ids] = self.parameter

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Return `values` of the rows as those of the whole table, zero where it is not used."""
        return values.new_zeros(self.table.shape).index_copy_(0, self.ids.to(values.device), values)


def used_rows(model: Classifier, config: TrainingConfig, inputs: Inputs, accelerator: Accelerator) -> UsedRows | None:
    """Return the rows of the word embeddings that `inputs` use, where they alone are to be updated.

    None: the whole table is, since it does not train, or most of it is used, or some setting changes all of it.
    """
    embedding = model.network.base_model.get_input_embeddings()
    table = embedding.weight
    decays = weight_decays(model, config)[EMBEDDINGS] > 0
    changes_all = (
        config.l2_sp > 0  # pulls at every row
        or (decays and config.optimizer != "adamw")  # is part of every row's gradient
        or accelerator.mixed_precision == "fp16"  # leaves steps out, without a word
    )
    is_plain = type(embedding) is nn.Embedding and embedding.max_norm is None and not embedding.scale_grad_by_freq
    num_owners = sum(p is table for module in model.modules() for p in module._parameters.values())
    if not config.sparse_embeddings or not table.requires_grad or changes_all or not is_plain or num_owners != 1:
        return None
    is_used = np.zeros(len(table), dtype=bool)
    is_used[[model.pad_id, model.network.base_model.config.pad_token_id or 0]] = True
    for start in range(0, len(inputs.tokens.ids), IDS_AT_ONCE):
        is_used[inputs.tokens.ids[start : start + IDS_AT_ONCE]] = True
    ids = np.flatnonzero(is_used)
    if len(ids) > LARGEST_SHARE * len(table):
        return None
    # FGM and hooks read the gradient of the table, and processes exchange it; on CUDA a sum by rows has no fixed order.
    is_alone = accelerator.device.type == "cpu" and accelerator.num_processes == 1
    is_hooked = bool(table._backward_hooks or table._post_accumulate_grad_hooks)
    return UsedRows(embedding, ids, is_sparse=is_alone and config.fgm == 0 and not is_hooked)


def _refuse_others(count: int) -> None:
    if count:
        raise ConfigError(
            "Expected gradients of no other word embeddings than those of the tokens in the training split, found "
            f"{count} more: something changes token ids, or reads the table, in the forward pass. Pass "
            "--no-sparse-embeddings (sparse_embeddings=False in Python)."
        )
