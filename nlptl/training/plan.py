"""What a training is going to do, checked and shown before anything is computed."""

from dataclasses import dataclass, fields

import torch
from torch import nn

from nlptl.config import DecisionConfig, HeadConfig, TrainingConfig, flag
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier
from nlptl.model.parts import HEAD
from nlptl.tasks.decision_checks import check_decisions
from nlptl.tasks.task import Task
from nlptl.training.optimizer import check_rates, learning_rates, weight_decays
from nlptl.training.regularizers import check_r_drop
from nlptl.training.stages import Stage, plan_stages
from nlptl.wording import align_table


@dataclass(frozen=True)
class Plan:
    """The stages of a training, and the peak learning rate and weight decay of each group in the last one."""

    stages: list[Stage]
    learning_rates: dict[str, float]
    weight_decays: dict[str, float]


def plan_training(model: Classifier, config: TrainingConfig) -> Plan:
    """Check the settings of a training against the model and against each other, and return what they amount to.

    The model is left as it is in the last stage, which trains all that ever trains.

    Raises:
        ConfigError: If a setting would be ignored, contradicts another one, or cannot apply to what trains.
    """
    unused = [
        name for name in ("cache_size", "cache_dtype") if getattr(config, name) != getattr(TrainingConfig(), name)
    ]
    if unused and not config.cache:
        flags = ", ".join(map(flag, unused))
        raise ConfigError(f"Expected a cache for {flags}, found --no-cache. Leave one of the two out.")
    check_metric(model.task, config)
    _check_task(model.task, model.head, config)
    check_decisions(config, model.task, model.head)
    weights, count = config.class_weights, len(model.task.names)
    if isinstance(weights, tuple) and len(weights) != count:
        names = ", ".join(model.task.names[:5]) + (", ..." if count > 5 else "")
        raise ConfigError(
            f"Expected a number in --class-weights for each of {count} labels ({names}), found {len(weights)}. Pass "
            "balanced, or one for each."
        )
    transfer = model.transfer
    model.freeze(transfer.freeze, train_only=transfer.train_only)  # a training that failed may have left fewer layers
    if model.head_is_fitted:
        _check_fitted(model, config)
        return Plan([], {}, {})
    if model.network.dtype not in (torch.float32, torch.float64):
        raise ConfigError(
            f"Expected float32 weights to train, found {model.network.dtype}, in which small updates are lost. Call "
            "model.float(); mixed_precision computes in less."
        )
    check_rates(config, head_only=model.trains_head_only)
    groups = model.groups
    trained = {groups[name] for name, p in model.network.named_parameters() if p.requires_grad}
    below = [name for name in model.parts.group_names if name in trained and name.startswith(("layer", "embeddings"))]
    stages = plan_stages(config, num_unfrozen=len(below))
    check_r_drop(model, config)
    model.freeze(transfer.freeze, train_only=transfer.train_only, top=stages[-1].top)
    return Plan(stages, learning_rates(model, config), weight_decays(model, config))


def selection_metric(task: Task, config: TrainingConfig) -> str:
    """Return the validation score by which the best model is chosen."""
    return config.selection_metric or task.metrics[0]


def check_metric(task: Task, config: TrainingConfig) -> None:
    """Refuse a score to choose by that the task does not have.

    Raises:
        ConfigError: If that is asked for.
    """
    if config.selection_metric not in (None, *task.metrics):
        raise ConfigError(
            f"Expected a --selection-metric of the task {task.kind} ({', '.join(task.metrics)}), found "
            f"{config.selection_metric}. Pass one of these, or leave it out."
        )


def _check_task(task: Task, head: HeadConfig, config: TrainingConfig) -> None:
    """Refuse settings of the loss that the task does not have."""
    defaults = TrainingConfig()
    names = ("loss", "logit_adjustment", "sampling", "label_smoothing", "class_weights", "r_drop")
    given = [name for name in names if getattr(config, name) != getattr(defaults, name)]
    unknown = [flag(name) for name in given if name not in task.settings]
    if unknown:
        raise ConfigError(
            f"Expected settings of the loss that apply to the task {task.kind}, found {', '.join(unknown)}. Leave "
            "them out."
        )
    if config.loss == "asymmetric" and task.kind != "multi_label":
        raise ConfigError(
            f"Expected --loss asymmetric only with the task multi_label, found {task.kind}. Pass --loss focal."
        )
    if config.focal_gamma != defaults.focal_gamma and config.loss != "focal":
        raise ConfigError("Expected focal_gamma only with --loss focal. Pass both, or leave it out.")
    corrections = [name for name in ("class_weights", "sampling", "logit_adjustment") if name in given]
    if len(corrections) > 1:
        flags = " and ".join(map(flag, corrections))
        raise ConfigError(
            f"Expected one correction for rare labels, found {flags}, each of which makes them count as much as others "
            "alone. Pass one of them."
        )
    clash = [
        flag
        for flag, is_given in (
            ("label_smoothing", config.label_smoothing > 0 and config.loss == "focal"),
            ("--binary-loss sigmoid", head.binary_loss == "sigmoid" and "loss" in given),
            ("--binary-loss sigmoid", head.binary_loss == "sigmoid" and "logit_adjustment" in given),
        )
        if is_given
    ]
    if clash:
        raise ConfigError(
            f"Expected the cross-entropy of the softmax with {clash[0]}, found --loss {config.loss} and "
            f"logit_adjustment {config.logit_adjustment:g}. Leave one of the two out."
        )


def training_table(model: Classifier, plan: Plan) -> str:
    """Return a table of the groups of parameters: how many, how many train, at which peak rate and weight decay."""
    groups = model.groups
    rows = [("group", "parameters", "trainable", "learning rate", "weight decay")]
    for group in model.parts.group_names:
        members = [p for name, p in model.network.named_parameters() if groups[name] == group]
        trained = [p for p in members if p.requires_grad]
        if not members:
            continue
        decays = any(p.ndim > 1 for p in trained)  # biases and the scales of norms have none
        rate = f"{plan.learning_rates[group]:.3g}" if trained else "-"
        decay = f"{plan.weight_decays[group] if decays else 0:.3g}" if trained else "-"
        rows.append((group, f"{_size(members):,}", f"{_size(trained):,}", rate, decay))
    return align_table(rows)


def describe_stage(model: Classifier, config: TrainingConfig, stage: Stage, stages: list[Stage]) -> str:
    """Return one line that says what trains in `stage`, for which `model` is set, and the head's peak rate."""
    rates = learning_rates(model, config, before_encoder=stage is not stages[-1])
    return f"{model.describe_training()}; learning rate of the head {rates[HEAD]:.3g}"


def _size(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _check_fitted(model: Classifier, config: TrainingConfig) -> None:
    """Refuse an encoder that trains, and what only an optimizer can obey, if it differs from what it is by default."""
    if not model.encoder_is_frozen:
        raise ConfigError(
            f"Expected a frozen encoder below a {model.head.head} head, found one that trains. Pass --freeze encoder "
            "(freeze= in Python)."
        )
    defaults = TrainingConfig()
    obeyed = {"cache", "cache_size", "cache_dtype", "micro_batch_tokens", "mixed_precision", "logging_steps", "track"}
    obeyed |= {field.name for field in fields(DecisionConfig)}
    if model.head.head == "logistic":
        obeyed.add("class_weights")
    ignored = [name for name, value in vars(config).items() if name not in obeyed and value != getattr(defaults, name)]
    if ignored:
        flags = ", ".join(map(flag, ignored))
        raise ConfigError(
            f"Expected no settings of an optimizer for a {model.head.head} head, which scikit-learn fits, found "
            f"{flags}. Leave them out, or pass --head dense."
        )
