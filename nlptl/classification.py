"""Train a classifier as the recipes do, from a data set to scores."""

from functools import partial

from nlptl.config import ClassificationConfig
from nlptl.evaluation.metrics import Scores
from nlptl.judging.attributions import check_explain
from nlptl.judging.repeats import is_repeated, repeat_training
from nlptl.judging.report import report_run
from nlptl.training.assembly import classifier_of, splits_of
from nlptl.training.devices import on_main
from nlptl.training.estimate import check_disk
from nlptl.training.run import Run
from nlptl.training.trainer import Trainer
from nlptl.values import checked


@checked
def train_classifier(config: ClassificationConfig) -> Scores:
    """Load and split the data, train, select the best model on validation, and return the scores on test.

    A dry run logs what would train and its estimated costs, and returns no scores. With several seeds or folds, the
    scores are means over the runs (see `nlptl.judging.repeats.repeat_training`).

    Raises:
        ConfigError: If settings contradict each other, the model, or the run that is in the folder.
        DataError: If the data cannot be read as texts with labels.
        NonFiniteError: If training diverges.
        ResourceError: If memory or disk do not suffice.
    """
    check_explain(config)
    if is_repeated(config):
        means = repeat_training(config, train_classifier)
        if config.judging.report and not config.dry_run:
            on_main(partial(report_run, config.output_dir.expanduser()))
        return means
    run = None
    if not config.dry_run:
        run = Run.open(config.output_dir, config, resume=config.resume, overwrite=config.overwrite)
    splits = splits_of(config)
    if run is not None:
        run.record_splits(splits)
    model = classifier_of(config, splits)
    trainer = Trainer(model, config.train, output_dir=run, seed=config.seed)
    if run is None:
        estimate = trainer.estimate(splits["train"], validation=splits["validation"])
        check_disk(config.output_dir, estimate.disk)
        return Scores({})
    trainer.fit(splits["train"], validation=splits["validation"])
    # The test split is scored once, after all choices were made on validation.
    scores = trainer.evaluate(splits["test"])
    trainer.end_tracking()
    # Imported after training, since scikit-learn takes a while to import.
    if config.judging.with_baselines:
        from nlptl.judging.baselines import compare_with_baselines

        run.write_json("baselines.json", compare_with_baselines(config, splits, trainer).to_json())
    if config.judging.report:
        from nlptl.judging.analysis import write_analysis

        write_analysis(run, model, trainer.evaluations["test"], config.judging, seed=config.seed)
        on_main(partial(report_run, run.path))
    return scores
