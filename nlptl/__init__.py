"""Transfer learning on text: pretrained encoders, classification heads, and control over what is trained.

The names below are resolved when they are first used, so that `import nlptl` takes no time and imports no torch.
"""

import gc
import importlib
from typing import TYPE_CHECKING, Any

from nlptl.auto import register_heads

if TYPE_CHECKING:
    from nlptl.classification import train_classifier
    from nlptl.config import TrainingConfig
    from nlptl.data.sources import Examples
    from nlptl.data.splits import Splits, load_splits
    from nlptl.errors import (
        ConfigError,
        DataError,
        NonFiniteError,
        PeerLostError,
        ResourceError,
        UntrustedFileError,
        UserError,
    )
    from nlptl.estimator import TextClassifier
    from nlptl.evaluation.metrics import Score
    from nlptl.labels import Labels
    from nlptl.model.classifier import Classifier
    from nlptl.tasks.kinds import make_task
    from nlptl.tasks.multi_label import MultiLabel
    from nlptl.tasks.ordinal import Ordinal
    from nlptl.tasks.regression import Regression
    from nlptl.tasks.single_label import Prediction, SingleLabel
    from nlptl.tasks.tokens import TokenLabels
    from nlptl.training.run import Run
    from nlptl.training.trainer import Trainer

__version__ = "0.2.0"

__all__ = [
    "Classifier",
    "ConfigError",
    "DataError",
    "Examples",
    "Labels",
    "MultiLabel",
    "NonFiniteError",
    "Ordinal",
    "PeerLostError",
    "Prediction",
    "Regression",
    "ResourceError",
    "Run",
    "Score",
    "SingleLabel",
    "Splits",
    "TextClassifier",
    "TokenLabels",
    "Trainer",
    "TrainingConfig",
    "UntrustedFileError",
    "UserError",
    "load_splits",
    "make_task",
    "train_classifier",
]

_MODULES = {
    "nlptl.config": ("TrainingConfig",),
    "nlptl.data.sources": ("Examples",),
    "nlptl.data.splits": ("Splits", "load_splits"),
    "nlptl.errors": (
        "ConfigError",
        "DataError",
        "NonFiniteError",
        "PeerLostError",
        "ResourceError",
        "UntrustedFileError",
        "UserError",
    ),
    "nlptl.estimator": ("TextClassifier",),
    "nlptl.evaluation.metrics": ("Score",),
    "nlptl.labels": ("Labels",),
    "nlptl.model.classifier": ("Classifier",),
    "nlptl.tasks.kinds": ("make_task",),
    "nlptl.tasks.multi_label": ("MultiLabel",),
    "nlptl.tasks.ordinal": ("Ordinal",),
    "nlptl.tasks.regression": ("Regression",),
    "nlptl.tasks.single_label": ("Prediction", "SingleLabel"),
    "nlptl.tasks.tokens": ("TokenLabels",),
    "nlptl.classification": ("train_classifier",),
    "nlptl.training.run": ("Run",),
    "nlptl.training.trainer": ("Trainer",),
}

register_heads()


def __getattr__(name: str) -> Any:
    module = next((module for module, names in _MODULES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module 'nlptl' has no attribute {name!r}")
    # What torch and transformers are made of stays: to look through it for garbage again and again takes half a second.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return getattr(importlib.import_module(module), name)
    finally:
        if was_enabled:
            gc.enable()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
