"""Compute the hidden states above the lowest frozen layers once for a stage of a training."""

import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from accelerate import Accelerator

from nlptl.data.batches import collate
from nlptl.model.boundary import hidden_states_after
from nlptl.model.classifier import Classifier
from nlptl.model.inference import evaluating, in_halves, length_batches
from nlptl.model.quick import quick_layers
from nlptl.progress import progress_bar
from nlptl.training.inputs import HiddenStates, Inputs
from nlptl.training.mapped import map_new_file

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.5
"""Largest fraction of the free memory for hidden states; larger ones are mapped from a file."""


def cut_at_boundary(
    model: Classifier, inputs: Inputs, accelerator: Accelerator, *, num_passes: int, dtype: str, folder: Path
) -> Inputs:
    """Return `inputs` with the hidden states above the lowest frozen layers, if that saves work.

    The processes of a machine share one file.

    Args:
        model: The model, frozen as in this stage of the training.
        inputs: A split.
        accelerator: The device and the other processes.
        num_passes: How often the split will be run through the model.
        dtype: "float32" or "float16".
        folder: Folder of the file for hidden states that do not fit into memory, which exists as long as the process.
    """
    depth = cut_depth(model, num_passes=num_passes)
    split, tokens = inputs.examples.split, inputs.tokens
    if depth == 0:
        return inputs
    shape = (len(tokens.ids), int(model.network.base_model.config.hidden_size))
    num_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
    size = f"{num_bytes / 1e6:,.0f} MB of hidden states" + ", rounded to 11 bits" * (dtype == "float16")
    logger.info("%s: running layers 1 to %d once for %d passes, and keeping %s", split, depth, num_passes, size)
    if accelerator.num_processes == 1 and num_bytes <= MEMORY_SHARE * psutil.virtual_memory().available:
        rows: torch.Tensor | None = torch.empty(shape, dtype=getattr(torch, dtype))
    else:
        rows = map_new_file(shape, dtype, accelerator, folder)
    if rows is None:
        logger.warning("%s: there is no space for them in memory or in %s: computing them in every pass", split, folder)
        return inputs
    start = time.perf_counter()
    states = HiddenStates(depth, rows, tokens.offsets)
    _fill(states, model, inputs, accelerator)
    seconds = time.perf_counter() - start
    logger.info("%s: this took %.1f s, which each of the other passes saves", split, seconds)
    return replace(inputs, hidden=states)


def cut_depth(model: Classifier, *, num_passes: int) -> int:
    """Return how many of the lowest layers are worth running once for `num_passes`."""
    # float64 would lose precision, and texts are split into chunks only inside the network.
    is_worth_it = num_passes > 1 and model.network.dtype != torch.float64 and not model.reading.in_chunks
    return min(model.num_frozen_layers, model.lowest_layer_read) if is_worth_it else 0


def _fill(states: HiddenStates, model: Classifier, inputs: Inputs, accelerator: Accelerator) -> None:
    state, device = accelerator.state, accelerator.device
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    batches = length_batches(
        inputs.tokens.lengths, device=device, process=state.local_process_index, num_processes=num_local
    )
    name = f"layers 1 to {states.depth}, {inputs.examples.split}"
    encoder = model.network.base_model

    def fill(indices: np.ndarray) -> None:
        batch = collate(inputs.tokens, indices, pad_id=model.pad_id, device=device)
        hidden = hidden_states_after(encoder, model.parts, states.depth, **batch).to("cpu", states.rows.dtype)
        for i, text in zip(indices, hidden, strict=True):
            start, end = states.offsets[i], states.offsets[i + 1]
            states.rows[start:end] = text[: end - start]

    with evaluating(model), quick_layers(model), accelerator.autocast():
        for indices in progress_bar(batches, name=name):
            in_halves(fill, indices)
    accelerator.wait_for_everyone()
