"""Stages of a training: which layers train in which epochs."""

from dataclasses import dataclass

from nlptl.config import TrainingConfig
from nlptl.errors import ConfigError


@dataclass(frozen=True)
class Stage:
    """Consecutive epochs in which the same parameters train, with their own optimizer and learning rate schedule.

    `top` is the number of layers, counted from the top, that train; 0: only the head; None: all that are not frozen.
    """

    first_epoch: int
    num_epochs: int
    top: int | None

    def describe(self) -> str:
        """Return the epochs, counted from 1, such as 'epochs 2 to 4'."""
        first, last = self.first_epoch + 1, self.first_epoch + self.num_epochs
        return f"epoch {first}" if first == last else f"epochs {first} to {last}"


def plan_stages(config: TrainingConfig, *, num_unfrozen: int) -> list[Stage]:
    """Return the stages of a training in order; each trains at least what the one before it trains.

    `warm_head_epochs` is LP-FT (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features"): a linear probe
    first, then fine-tuning from it. `unfreeze_every_epochs` is the gradual unfreezing of ULMFiT (Howard and Ruder
    2018, section 3.3).

    Args:
        config: The settings of the training.
        num_unfrozen: Number of layers that are not frozen, with the embeddings as one; 0: only the head trains.

    Raises:
        ConfigError: If both schedules are given, there is nothing to unfreeze, or there are too few epochs.
    """
    warm, every, epochs = config.warm_head_epochs, config.unfreeze_every_epochs, config.num_epochs
    if not warm and every is None:
        return [Stage(0, epochs, None)]
    if warm and every is not None:
        raise ConfigError(
            f"warm_head_epochs={warm} and unfreeze_every_epochs={every} are two schedules that both start with the "
            "head alone. Leave one of the two out."
        )
    flag, first = ("--warm-head-epochs", warm) if every is None else ("--unfreeze-every-epochs", every)
    if num_unfrozen == 0:
        raise ConfigError(
            f"{flag} {first} trains layers after the head, but the encoder is frozen. Pass --freeze nothing, or a "
            "number of layers (freeze= in Python)."
        )
    if first >= epochs:
        raise ConfigError(
            f"The head alone trains for {first} epochs, and there are {epochs}. Raise --num-epochs to {first + 1} or "
            f"more, or lower {flag}."
        )
    if every is None:
        return [Stage(0, first, 0), Stage(first, epochs - first, None)]
    starts = range(0, epochs, every)[: num_unfrozen + 1]
    ends = [*starts[1:], epochs]
    return [Stage(start, end - start, top) for top, (start, end) in enumerate(zip(starts, ends, strict=True))]
