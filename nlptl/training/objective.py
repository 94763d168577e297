"""One gradient, however a global batch is split over micro-batches and processes."""

import torch


def share_of_mean(losses: torch.Tensor, *, global_weight: float, num_processes: int) -> torch.Tensor:
    """Return what a micro-batch with these example losses [rows] contributes to the mean over the global batch.

    The contributions of all micro-batches of a process add up in the gradient. DistributedDataParallel then averages
    the gradients over processes, hence the factor `num_processes`: the result is the gradient of
    sum(losses of the global batch) / global_weight, in any split: the number of its examples, or what they weigh.
    """
    # A batch of texts without a word that is read weighs nothing, and its loss is zero.
    return losses.sum() * (num_processes / global_weight if global_weight else 0.0)
