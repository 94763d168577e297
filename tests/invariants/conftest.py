"""Examples of chosen lengths, and gradients as the optimizer gets them."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nlptl import Classifier, Examples
from tests.conftest import options

LENGTHS = (14, 20, 11, 17, 13, 19, 12, 16, 15, 20, 11)
"""Tokens of each text, special tokens included: any two differ enough to need padding."""

Snapshot = dict[str, tuple[torch.Tensor, torch.Tensor | None]]


@pytest.fixture(scope="module", autouse=True)
def _quick_garbage_collection() -> Iterator[None]:
    """Leave what is imported out of the garbage collection that ends every training: 0.3 s of it each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def texts_of_lengths() -> Callable[[int], Examples]:
    """Return the first texts of the lengths above, with labels in turn."""

    def build(count: int) -> Examples:
        words = ["good", "bad", "film", "story", "great", "dull", "plot", "was", "not", "very"]
        texts = [" ".join(words[(i + 3 * k) % 10] for k in range(LENGTHS[i] - 2)) for i in range(count)]
        return Examples.from_lists(texts, ["negative" if i % 3 else "positive" for i in range(count)])

    return build


@pytest.fixture
def build_model(family_folder: Callable[[str], Path]) -> Callable[..., Classifier]:
    """Return a float64 model without dropout."""

    def build(family: str = "bert", **settings: object) -> Classifier:
        settings = {"dropout": 0.0, **settings}
        return Classifier.from_pretrained(
            family_folder(family), labels=("negative", "positive"), **options(**settings)
        ).double()

    return build


@pytest.fixture
def watch_steps() -> Callable[[torch.nn.Module], Iterator[list[Snapshot]]]:
    """Return a context that collects weights and gradients at the moment before each optimizer step."""

    @contextmanager
    def watch(model: torch.nn.Module) -> Iterator[list[Snapshot]]:
        steps: list[Snapshot] = []

        def look(*_: object) -> None:
            trained = ((name, p) for name, p in model.network.named_parameters() if p.requires_grad)
            copies = {name: (p.detach().clone(), None if p.grad is None else p.grad.clone()) for name, p in trained}
            steps.append(copies)

        handle = register_optimizer_step_pre_hook(look)
        try:
            yield steps
        finally:
            handle.remove()

    return watch
