"""The plan of a training, checked and printed before anything is computed."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import nn

from nlptl.config import DecisionConfig, HeadConfig, TrainingConfig, flag
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier
from nlptl.model.parts import HEAD
from nlptl.tasks.decision_checks import check_decisions
from nlptl.tasks.task import LOSS_SETTINGS, Task
from nlptl.training.optimizer import check_rates, learning_rates, weight_decays
from nlptl.training.stages import Stage, plan_stages
from nlptl.wording import align_table


@dataclass(frozen=True)
class Plan:
    """The stages of a training, and the peak learning rate and weight decay of each group in the last one."""

    stages: list[Stage]
    learning_rates: dict[str, float]
    weight_decays: dict[str, float]


def plan_training(model: Classifier, config: TrainingConfig) -> Plan:
    """Check the settings of a training against the model and against each other, and return the plan.

    It leaves the model frozen as in the last stage, which trains everything that any stage trains.

    Raises:
        ConfigError: If a setting would have no effect, contradicts another one, or does not fit the model.
    """
    if not config.cache and (unused := _changed(config, ("cache_size", "cache_dtype"))):
        raise ConfigError(f"--no-cache turns off the cache that {unused} would change. Leave one of the two out.")
    check_metric(model.task, config)
    _check_task(model.task, model.head, config)
    check_decisions(config, model.task, model.head)
    weights, count = config.class_weights, len(model.task.names)
    if isinstance(weights, tuple) and len(weights) != count:
        names = ", ".join(model.task.names[:5]) + (", ..." if count > 5 else "")
        raise ConfigError(
            f"--class-weights has {len(weights)} weights for {count} labels ({names}). Pass one for each, or balanced."
        )
    transfer = model.transfer
    model.freeze(transfer.freeze, train_only=transfer.train_only)  # a failed training may have left fewer layers
    if model.head_is_fitted:
        _check_fitted(model, config)
        return Plan([], {}, {})
    if model.network.dtype not in (torch.float32, torch.float64):
        raise ConfigError(
            f"Small updates are lost in the model's {model.network.dtype} weights. Call model.float() before training; "
            "for speed, use mixed_precision."
        )
    check_rates(config, head_only=model.trains_head_only)
    groups = model.groups
    trained = {groups[name] for name, p in model.network.named_parameters() if p.requires_grad}
    below = [name for name in model.parts.group_names if name in trained and name.startswith(("layer", "embeddings"))]
    stages = plan_stages(config, num_unfrozen=len(below))
    model.freeze(transfer.freeze, train_only=transfer.train_only, top=stages[-1].top)
    return Plan(stages, learning_rates(model, config), weight_decays(model, config))


def selection_metric(task: Task, config: TrainingConfig) -> str:
    """Return the name of the validation score that selects the best model."""
    return config.selection_metric or task.metrics[0]


def check_metric(task: Task, config: TrainingConfig) -> None:
    """Check that the task has the score that selects the best model.

    Raises:
        ConfigError: If it does not.
    """
    if config.selection_metric not in (None, *task.metrics):
        raise ConfigError(
            f"The task {task.kind} has no score {config.selection_metric!r}. Pass one of {', '.join(task.metrics)} as "
            "--selection-metric, or leave it out."
        )


def _check_task(task: Task, head: HeadConfig, config: TrainingConfig) -> None:
    """Refuse settings of the loss that the task does not have, or that contradict each other."""
    if unknown := _changed(config, [name for name in LOSS_SETTINGS if name not in task.settings]):
        raise ConfigError(f"These settings do not apply to the task {task.kind}: {unknown}. Leave them out.")
    if config.loss == "asymmetric" and task.kind != "multi_label":
        raise ConfigError(f"--loss asymmetric applies to multi_label, not to the task {task.kind}. Pass --loss focal.")
    if config.loss != "focal" and (unused := _changed(config, ["focal_gamma"])):
        raise ConfigError(f"{unused} has no effect without --loss focal. Pass both, or leave it out.")
    corrections = _changed(config, ("class_weights", "sampling", "logit_adjustment"))
    if ", " in corrections:
        raise ConfigError(f"Each of {corrections} gives rare labels the weight of frequent ones. Pass one of them.")
    sigmoid = head.binary_loss == "sigmoid" and bool(_changed(config, ("loss", "logit_adjustment")))
    if sigmoid or (config.label_smoothing > 0 and config.loss == "focal"):
        setting = "--binary-loss sigmoid" if sigmoid else "label_smoothing"
        raise ConfigError(
            f"{setting} cannot be combined with --loss {config.loss} and logit_adjustment {config.logit_adjustment:g}: "
            "these need the cross-entropy of the softmax. Leave one of them out."
        )


def training_table(model: Classifier, plan: Plan) -> str:
    """Return a table of the parameter groups: sizes, trainable sizes, peak learning rates and weight decays."""
    groups = model.groups
    rows = [("group", "parameters", "trainable", "learning rate", "weight decay")]
    for group in model.parts.group_names:
        members = [p for name, p in model.network.named_parameters() if groups[name] == group]
        trained = [p for p in members if p.requires_grad]
        if not members:
            continue
        decays = any(p.ndim > 1 for p in trained)  # biases and norms have no weight decay
        rate = f"{plan.learning_rates[group]:.3g}" if trained else "-"
        decay = f"{plan.weight_decays[group] if decays else 0:.3g}" if trained else "-"
        rows.append((group, f"{_size(members):,}", f"{_size(trained):,}", rate, decay))
    return align_table(rows)


def describe_stage(model: Classifier, config: TrainingConfig, stage: Stage, stages: list[Stage]) -> str:
    """Return a line with what trains in `stage`, as `model` is frozen now, and the head's peak learning rate."""
    rates = learning_rates(model, config, before_encoder=stage is not stages[-1])
    return f"{model.describe_training()}; learning rate of the head {rates[HEAD]:.3g}"


def _size(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _check_fitted(model: Classifier, config: TrainingConfig) -> None:
    """Refuse an encoder that trains and settings of an optimizer for a head that scikit-learn fits."""
    if not model.encoder_is_frozen:
        raise ConfigError(
            f"A {model.head.head} head needs a frozen encoder. Pass --freeze encoder (freeze= in Python)."
        )
    obeyed = {"cache", "cache_size", "cache_dtype", "micro_batch_tokens", "mixed_precision", "logging_steps", "track"}
    obeyed |= {field.name for field in fields(DecisionConfig)}
    if model.head.head == "logistic":
        obeyed.add("class_weights")
    if ignored := _changed(config, [name for name in vars(config) if name not in obeyed]):
        raise ConfigError(
            f"scikit-learn fits a {model.head.head} head, so these settings have no effect: {ignored}. Leave them out, "
            "or pass --head dense."
        )


def _changed(config: TrainingConfig, names: Iterable[str]) -> str:
    """Return which of these settings differ from their defaults, as a message names them."""
    defaults = TrainingConfig()
    return ", ".join(flag(name) for name in names if getattr(config, name) != getattr(defaults, name))
