"""Build the data splits and the classifier that settings describe."""

from nlptl.config import ClassificationConfig, Columns, ReadingConfig, part_of
from nlptl.data.splits import Splits, load_splits
from nlptl.model.classifier import Classifier
from nlptl.tasks.kinds import make_task


def splits_of(config: ClassificationConfig) -> Splits:
    """Load and split the data that `config` names.

    Raises:
        ConfigError: If settings contradict each other.
        DataError: If the data cannot be read as texts with targets of the task.
        ResourceError: If the data cannot be downloaded.
    """
    return load_splits(
        config.dataset,
        task=config.task,
        max_examples=config.max_examples,
        drop_empty=config.drop_empty,
        deduplicate=config.deduplicate,
        seed=config.split_seed,
        folds=config.repeats.folds,
        fold=config.repeats.fold,
        strict=config.strict,
        near_duplicates=config.near_duplicates,
        slice_columns=config.judging.slice_columns,
        texts_shown=config.judging.texts_shown,
        **vars(part_of(Columns, config)),
    )


def classifier_of(config: ClassificationConfig, splits: Splits) -> Classifier:
    """Load the encoder that `config` names, with a new head for the task of `splits`.

    Raises:
        ConfigError: If settings contradict each other or the model.
        DataError: If the training split lacks what the task needs, such as a second label.
        UntrustedFileError: If a file of the model is damaged or could run code.
        ResourceError: If the model cannot be downloaded.
    """
    return Classifier.from_pretrained(
        config.model,
        task=make_task(splits, label_order=config.label_order),
        pairs=config.pair_column is not None,
        head=config.head,
        transfer=config.transfer,
        reading=part_of(ReadingConfig, config),
        seed=config.seed,
    )
