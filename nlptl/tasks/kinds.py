"""The kinds of tasks by name."""

from nlptl.data.splits import Splits
from nlptl.errors import ConfigError
from nlptl.tasks.multi_label import MultiLabel
from nlptl.tasks.ordinal import Ordinal
from nlptl.tasks.regression import Regression
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.task import Task
from nlptl.tasks.tokens import TokenLabels
from nlptl.values import checked

KINDS: dict[str, type[Task]] = {cls.kind: cls for cls in (SingleLabel, Ordinal, MultiLabel, Regression, TokenLabels)}


@checked
def make_task(splits: Splits, *, label_order: tuple[str, ...] = ()) -> Task:
    """Return the task of a data set: its kind and its labels, or the names and the scale of its scores.

    Args:
        splits: What `load_splits` has returned.
        label_order: The labels of an ordinal task from the lowest to the highest. Empty: they are numbers.

    Raises:
        ConfigError: If an order is given where it has no meaning, or is missing.
        DataError: If train lacks what the kind of task needs, such as a second label.
    """
    if splits.task == "ordinal":
        return Ordinal.from_examples(splits.train, order=label_order)
    if label_order:
        raise ConfigError(
            f"Expected --label-order only with the task ordinal, found {splits.task}. Leave it out, or pass --task "
            "ordinal."
        )
    return KINDS[splits.task].from_examples(splits.train)
