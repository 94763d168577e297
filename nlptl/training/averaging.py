"""A moving average of the weights, which stands in for those of the last step."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nlptl.errors import UntrustedFileError


class MovingAverage:
    """An exponential moving average of weights, the update rule being that of torch's `AveragedModel`.

    The decay rises to its value, min(decay, (1 + t) / (10 + t)) after t updates, as TensorFlow's
    `ExponentialMovingAverage` does it: a short training would keep too much of its start otherwise.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        """Start from the values that `weights` have now; the same parameters are read at every update."""
        self.weights = dict(weights)
        self.decay = decay
        self.num_updates = 0
        self._averages = {name: weight.detach().clone() for name, weight in weights.items()}

    def update(self) -> None:
        """Take in the weights as they are after an optimizer step."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = [weight.detach() for weight in self.weights.values()]
        get_ema_multi_avg_fn(decay)(list(self._averages.values()), current, None)
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages in the place of the weights, to evaluate or to save them."""
        with restored(self.weights.values()):
            with torch.no_grad():
                for name, average in self._averages.items():
                    self.weights[name].copy_(average)
            yield

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the averages by name, on the CPU; there they are the averages themselves, not copies."""
        return {name: average.cpu().contiguous() for name, average in self._averages.items()}

    def load(self, tensors: Mapping[str, torch.Tensor], *, num_updates: int) -> None:
        """Go on from what `tensors` returned after `num_updates` updates.

        Raises:
            UntrustedFileError: If they are not averages of these weights, by name and shape.
        """
        found = {name: tensor.shape for name, tensor in tensors.items()}
        wanted = {name: average.shape for name, average in self._averages.items()}
        if found != wanted:
            names = found.keys() | wanted.keys()
            different = sorted(name for name in names if found.get(name) != wanted.get(name))
            raise UntrustedFileError(
                f"Expected the averages of {len(wanted)} tensors in the checkpoint, found {len(found)}, of which "
                f"{len(different)} are missing, unknown or of another shape, such as {different[0]}. Resume with the "
                "settings of the run, --ema-decay among them, or start a new run."
            )
        for name, tensor in tensors.items():
            self._averages[name].copy_(tensor)
        self.num_updates = num_updates


@contextmanager
def restored(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Give the weights back, at the end, the values they have now, bit for bit; after an exception too."""
    kept = [(weight, weight.detach().clone()) for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in kept:
                weight.copy_(value)
