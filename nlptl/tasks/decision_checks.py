"""Checks of the settings of calibration and decisions, and warnings where held-out data could not meet them."""

from nlptl.config import DecisionConfig, HeadConfig, flag
from nlptl.errors import ConfigError
from nlptl.evaluation.decisions import OUT_OF_SCOPE
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.task import Task

ENOUGH_TEXTS = 50
"""Smallest number of held-out texts for a calibration or decision that is not mostly chance."""


def check_decisions(config: DecisionConfig, task: Task, head: HeadConfig) -> None:
    """Refuse settings that do not apply to the task or to the form of its logits.

    Raises:
        ConfigError: If there is one.
    """
    if config.calibration not in ("auto", "none", *task.calibrations):
        known = ", ".join(("auto", "none", *task.calibrations))
        raise ConfigError(
            f"Expected a --calibration of the task {task.kind} ({known}), found {config.calibration}. Pass one of "
            "these, or leave it out."
        )
    unknown = [flag for flag in given_decisions(config) if flag[2:].replace("-", "_") not in task.choices]
    if unknown:
        raise ConfigError(
            f"Expected decisions that apply to the task {task.kind}, found {', '.join(unknown)}. Leave them out."
        )
    metric = config.threshold_metric
    if metric is not None and metric not in task.threshold_metrics:
        raise ConfigError(
            f"Expected a --threshold-metric of the task {task.kind} ({', '.join(task.threshold_metrics)}), found "
            f"{metric}. Pass one of these."
        )
    if metric is not None and task.kind == "single_label" and len(task.names) != 2:
        raise ConfigError(
            f"Expected two labels for a threshold, found {len(task.names)}, of which the most probable one is "
            "predicted. Leave --threshold-metric out."
        )
    if config.out_of_scope is not None:
        _check_scope(task, head)


def given_decisions(config: DecisionConfig) -> list[str]:
    """Return the flags of the decisions that are requested."""
    return [flag(name) for name in SingleLabel.choices if getattr(config, name) is not None]


def check_held_out(config: DecisionConfig) -> None:
    """Refuse calibration and decisions that are requested without held-out data.

    Raises:
        ConfigError: If there is something.
    """
    flags = [*(["--calibration"] if config.calibration not in ("auto", "none") else []), *given_decisions(config)]
    if flags:
        raise ConfigError(
            f"Expected a validation split for {', '.join(flags)}, found none. Pass validation= to fit, leave them out, "
            "or fit them to a saved model with nlptl calibrate."
        )


def unmet(config: DecisionConfig, task: Task) -> list[str]:
    """Return a line for each setting that the held-out data could not meet, after `task` was tuned on it."""
    if not isinstance(task, SingleLabel):
        return []
    lines = []
    if config.target_accuracy is not None and task.decisions.abstention is None:
        lines.append(
            f"Expected labels that are right with probability {config.target_accuracy:g} above some probability, found "
            "none: every text gets a label. Lower --target-accuracy."
        )
    sets = task.decisions.sets
    if sets is not None and sets.quantile >= 1:
        lines.append(
            f"Expected more than {sets.n} held-out texts, or a better model, for --coverage {sets.coverage:g}, found "
            "that it takes sets of nearly all labels. Lower --coverage, or calibrate on more texts."
        )
    return lines


def fitted_on_few(config: DecisionConfig, before: Task, after: Task, *, num_texts: int) -> str | None:
    """Return a warning if `after` was tuned from `before` on too few texts, else None."""
    has_new = after.calibration.method != "none" and after.calibration != before.calibration
    if num_texts >= ENOUGH_TEXTS or not (has_new or given_decisions(config)):
        return None
    way_out = "pass more, or --calibration none" if has_new else "pass more"
    return f"fitted on {num_texts} texts: expect {'probabilities' if has_new else 'decisions'} to be off; {way_out}"


def _check_scope(task: Task, head: HeadConfig) -> None:
    """Refuse heads whose logits give no energy score, which detects texts out of scope."""
    if OUT_OF_SCOPE in task.names:
        raise ConfigError(
            f"Expected no label {OUT_OF_SCOPE!r} with --out-of-scope, which gives it to texts, found one. Rename the "
            "label, or leave --out-of-scope out."
        )
    found = {
        "centroid": "densities up to a factor that all labels share",
        "logistic": "one logit and a zero" if len(task.names) == 2 else "",
        "dense": "one logit and a zero" if head.binary_loss == "sigmoid" else "",
    }[head.head]
    if found:
        raise ConfigError(
            f"Expected a logit for each label with --out-of-scope, which is decided by their energy, found {found}. "
            "Leave it out, or pass --head dense with --binary-loss softmax."
        )
