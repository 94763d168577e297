"""Progress of a run: a bar and lines for people, records for programs, and outside trackers."""

import importlib.util
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from nlptl.config import TrackerName, flat, to_json
from nlptl.data.writers import write_text
from nlptl.errors import ConfigError, ResourceError, UntrustedFileError, one_line
from nlptl.progress import progress_bar
from nlptl.training.devices import on_main
from nlptl.training.run import Run

PROJECT = "nlptl"
"""Project or experiment of the runs, unless the settings of the tracker name another."""

logger = logging.getLogger(__name__)


class Tracker:
    """Shows a progress bar on the terminal of the main process, and writes one JSON object per record."""

    def __init__(
        self,
        path: Path | None,
        *,
        num_steps: int,
        first_step: int,
        is_main_process: bool,
        outside: "OutsideTracker | None" = None,
    ) -> None:
        """Open the records in `path`, and drop those of an interrupted run after `first_step`."""
        self.path = path if is_main_process else None
        self.outside = outside
        self.started = time.monotonic()
        if self.path is not None:
            write_text(self.path, "".join(_records(self.path, first_step)))
        self.bar = progress_bar(name="training", total=num_steps, initial=first_step, unit="step")

    def advance(self, *, loss: float) -> None:
        """Move the bar by one step."""
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self.bar.update()

    def record(self, **values: float) -> None:
        """Append one object to metrics.jsonl; `step` must be among the values. NaN and infinity become null."""
        if self.path is not None:
            seconds = round(time.monotonic() - self.started, 3)
            finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
            line = json.dumps({**finite, "seconds": seconds}, allow_nan=False) + "\n"
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise ResourceError(
                    f"Cannot write {self.path}: {error.strerror}. Free some space or fix the permissions, then "
                    "continue with --resume."
                ) from error
        if self.outside is not None:
            self.outside.log(_named(values), step=int(values["step"]))

    def say(self, line: str) -> None:
        """Log a line above the progress bar."""
        with self.bar.external_write_mode(nolock=True):
            logger.info(line)


def check_tracker(name: TrackerName) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        ConfigError: If it is not.
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"Expected {name} to be installed for --track {name}, found no such package. Run pip install "
            f"'nlptl[{name}]', or leave --track out: metrics.jsonl has the same numbers."
        )


class OutsideTracker:
    """A run of tensorboard, wandb, mlflow or trackio through Accelerate, on the main process.

    Tracker failures never stop training; metrics.jsonl is the record.
    """

    def __init__(self, name: TrackerName, run: Run | None) -> None:
        """Prepare to track `run`; nothing is started.

        Raises:
            ConfigError: If there is no run.
        """
        if run is None:
            raise ConfigError(
                f"Expected the folder of a run to track with {name}, found none. Pass output_dir= to the Trainer."
            )
        self.name, self.run = name, run
        self.step = 0
        self._tracker: GeneralTracker | None = None

    def start(self, *, first_step: int) -> None:
        """Begin a run of the tracker; every process has to call this.

        Raises:
            ResourceError: If the tracker cannot be started.
        """
        self.step = first_step

        def start() -> None:
            settings = flat(to_json(self.run.config))
            plain = {k: v if isinstance(v, bool | int | float | str) else json.dumps(v) for k, v in settings.items()}
            try:
                tracker = self._open()
                tracker.start()
                tracker.store_init_configuration(plain)
            except Exception as error:  # Each tracker has errors of its own.
                raise ResourceError(
                    f"Expected to start {self.name}, found: {one_line(error)} Log in or set it up as its "
                    "documentation says, or leave --track out."
                ) from error
            self._tracker = tracker

        on_main(start)

    def _open(self) -> GeneralTracker:
        folder, kind = self.run.path, LOGGER_TYPE_TO_CLASS[self.name]
        if self.name == "tensorboard":
            # Its readers drop the values of an interrupted run after the step from which training continues.
            return kind(self.name, folder, purge_step=self.step + 1 if self.run.resume else None)
        if self.name == "wandb":
            return kind(os.environ.get("WANDB_PROJECT", PROJECT), name=folder.name, dir=str(folder))
        return kind(PROJECT, **({"run_name": folder.name} if self.name == "mlflow" else {}))

    def log(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Pass on the finite ones of `values`, at `step` or that of the last values."""
        self.step = self.step if step is None else step
        self._attempt("log", {key: value for key, value in values.items() if math.isfinite(value)}, step=self.step)

    def finish(self) -> None:
        """End the run of the tracker, if it was started."""
        self._attempt("finish")
        self._tracker = None

    def _attempt(self, method: str, *arguments: Any, **settings: Any) -> None:
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, method)(*arguments, **settings)
        except Exception as error:
            logger.warning("%s failed and gets no more values; metrics.jsonl has all: %s", self.name, one_line(error))
            self._tracker = None


def _named(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values of a record under the names by which trackers group them."""
    named = {key: value for key, value in values.items() if key != "step"}
    if "epoch" not in named:
        return {f"train/{key}": value for key, value in named.items()}
    named["train/mean_loss"] = named.pop("loss")
    return {key.replace("validation_", "validation/", 1): value for key, value in named.items()}


def _records(path: Path, last_step: int) -> list[str]:
    """Return the lines up to `last_step`. A line that a crash has cut off is later than that."""
    if not last_step or not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= last_step]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UntrustedFileError(
            f"Cannot read the records of the run in {path}: {error!r}. Move the file away to resume without them."
        ) from error
