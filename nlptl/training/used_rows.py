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
from nlptl.model.classifier import Classifier
from nlptl.model.parts import EMBEDDINGS
from nlptl.training.inputs import Inputs
from nlptl.training.optimizer import weight_decays

LARGEST_SHARE = 0.5
"""Of the table, the share of used rows above which copying them takes what their updates save."""
IDS_AT_ONCE = 2**20


class UsedRows:
    """The rows of a table of embeddings that an optimizer updates: `parameter` [rows, width].

    In each step `take_gradient` comes after the backward pass, and `put_back` after the update.
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

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within it, the backward pass gives the table the kind of gradient that `take_gradient` expects."""
        before, self.embedding.sparse = self.embedding.sparse, self.is_sparse
        try:
            yield
        finally:
            self.embedding.sparse = before
            self.table.grad = None

    def take_gradient(self) -> None:
        """Move the gradient of the table to the rows."""
        gradient, self.table.grad = self.table.grad, None
        if gradient is None:
            self.parameter.grad = None
        elif gradient.is_sparse:
            places = self._places[gradient._indices()[0]]
            self.parameter.grad = torch.zeros_like(self.parameter).index_add_(0, places, gradient._values())
        else:
            self.parameter.grad = gradient[self.ids]

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
        or accelerator.is_fsdp2  # cuts the table by rows
    )
    is_plain = type(embedding) is nn.Embedding and embedding.max_norm is None and not embedding.scale_grad_by_freq
    num_users = sum(p is table for module in model.modules() for p in module._parameters.values())
    if not config.sparse_embeddings or not table.requires_grad or changes_all or not is_plain or num_users > 1:
        return None
    is_used = np.zeros(len(table), dtype=bool)
    is_used[[model.pad_id, model.network.base_model.config.pad_token_id or 0]] = True
    for start in range(0, len(inputs.tokens.ids), IDS_AT_ONCE):  # they may be in a file that is larger than memory
        is_used[inputs.tokens.ids[start : start + IDS_AT_ONCE]] = True
    ids = np.flatnonzero(is_used)
    if len(ids) > LARGEST_SHARE * len(table):
        return None
    # FGM follows the gradient of the table, and processes exchange it; on CUDA a sum by rows has no fixed order.
    is_sparse = accelerator.device.type == "cpu" and accelerator.num_processes == 1 and config.fgm == 0
    return UsedRows(embedding, ids, is_sparse=is_sparse)
