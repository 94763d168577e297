"""Settings of a new head that cannot be obeyed, refused before anything is downloaded or loaded."""

from nlptl.config import HeadConfig
from nlptl.errors import ConfigError
from nlptl.tasks.task import Task


def check_head(head: HeadConfig, task: Task, *, encoder_is_frozen: bool) -> None:
    """Check the settings of a new head; pooling is no longer "auto".

    Raises:
        ConfigError: If a setting contradicts another one.
    """
    if head.inverse_regularization is not None and head.head != "logistic":
        raise ConfigError(
            "Expected inverse_regularization only with a logistic head, found inverse_regularization="
            f"{head.inverse_regularization} with head {head.head!r}. Pass --head logistic (head= in Python), or leave "
            "inverse_regularization out."
        )
    _check_task(head, task)
    if head.head == "dense":
        _check_dense(head, task)
    else:
        _check_fitted(head, encoder_is_frozen=encoder_is_frozen)
    if head.layers != "last" and head.pooling in ("native", "attention"):
        raise ConfigError(
            f"Expected the last layer alone with pooling {head.pooling!r} ('auto' means 'native' unless the encoder is "
            f"frozen), found layers={head.layers!r}. Pass --pooling mean, cls or max (pooling= in Python), or leave "
            "--layers out."
        )


def _check_task(head: HeadConfig, task: Task) -> None:
    """Refuse a head that the task does not have."""
    if head.head != "dense" and task.kind != "single_label":
        raise ConfigError(
            f"Expected head 'dense' with the task {task.kind}, found {head.head!r}, which knows one label for each "
            "text. Leave --head out."
        )
    if task.is_per_token and (head.pooling != "native" or head.hidden):
        raise ConfigError(
            f"Expected the architecture's own head for tags of words, found pooling {head.pooling!r} and hidden "
            f"{' '.join(map(str, head.hidden)) or 'none'}. Leave --pooling, --layers and --hidden out."
        )
    if task.kind == "ordinal" and head.pooling == "native":
        raise ConfigError(
            "Expected a head with steps between labels for the task ordinal, found pooling 'native', the "
            "architecture's own head, which has none. Leave --pooling out, or pass mean, cls, max or attention."
        )
    if head.binary_loss == "sigmoid" and task.kind != "single_label":
        raise ConfigError(
            f"Expected binary_loss 'sigmoid' only with one of two labels for each text, found the task {task.kind}. "
            "Leave --binary-loss out."
        )


def _check_dense(head: HeadConfig, task: Task) -> None:
    if head.pooling == "native" and head.hidden:
        raise ConfigError(
            f"Expected no hidden layer with the architecture's own head, found hidden={' '.join(map(str, head.hidden))}"
            " with pooling 'native' (what 'auto' means unless the encoder is frozen). Pass --pooling mean, cls, max or "
            "attention (pooling= in Python)."
        )
    if head.activation is not None and not head.hidden:
        raise ConfigError(
            f"Expected an activation only with a hidden layer, found activation={head.activation!r} without one. "
            "Pass --hidden 1024 as well (hidden= in Python), or leave the activation out."
        )
    if head.binary_loss == "sigmoid" and len(task.names) != 2:
        raise ConfigError(
            f"Expected two labels for binary_loss 'sigmoid', found {len(task.names)}. Leave binary_loss at 'softmax'."
        )


def _check_fitted(head: HeadConfig, *, encoder_is_frozen: bool) -> None:
    if not encoder_is_frozen:
        raise ConfigError(
            f"Expected a frozen encoder below a {head.head} head, which is fitted to features that do not change; "
            "found an encoder that trains. Pass --freeze encoder (freeze= in Python), or --head dense."
        )
    if head.pooling in ("native", "attention") or head.layers == "mix" or head.chunk_pooling == "attention":
        found = "layers='mix'" if head.layers == "mix" else f"pooling {head.pooling!r}"
        found = "chunk_pooling 'attention'" if head.chunk_pooling == "attention" else found
        raise ConfigError(
            f"Expected features without weights to be learned below a {head.head} head, found {found}. "
            "Pass --pooling mean, cls or max, as --layers last or a number, and as chunk_pooling mean or max "
            "(fields of HeadConfig in Python)."
        )
    of_dense, default = ("hidden", "activation", "dropout", "binary_loss"), HeadConfig()
    given = [f"{name}={getattr(head, name)!r}" for name in of_dense if getattr(head, name) != getattr(default, name)]
    if given:
        raise ConfigError(
            f"Expected no hidden, activation, dropout or binary_loss with a {head.head} head, which has none of them; "
            f"found {', '.join(given)}. Leave them out, or pass --head dense (head= in Python)."
        )
