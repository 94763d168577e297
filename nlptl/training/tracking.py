"""What a run reports while it goes on: lines for people, records for programs."""

import json
import logging
import math
import sys
import time
from pathlib import Path

from tqdm import tqdm

from nlptl.data.writers import write_text
from nlptl.errors import ResourceError, UntrustedFileError

logger = logging.getLogger(__name__)


class Tracker:
    """One bar on the terminal of the main process, plain lines elsewhere, and one JSON object per record."""

    def __init__(self, path: Path | None, *, num_steps: int, first_step: int, is_main_process: bool) -> None:
        """Open the records in `path`; those after `first_step`, of an interrupted run, are dropped."""
        self.path = path if is_main_process else None
        self.started = time.monotonic()
        if self.path is not None:
            write_text(self.path, "".join(_records(self.path, first_step)))
        self.bar = tqdm(
            total=num_steps,
            initial=first_step,
            desc="training",
            unit="step",
            disable=not (is_main_process and sys.stderr.isatty()),
            leave=False,
        )

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
                    f"Expected to write {self.path}, found: {error.strerror}. Free space or mend the permissions, then "
                    "go on with --resume."
                ) from error

    def say(self, line: str) -> None:
        """Log a line without tearing the bar."""
        with self.bar.external_write_mode(nolock=True):
            logger.info(line)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self.bar.close()


def _records(path: Path, last_step: int) -> list[str]:
    """Return the lines up to `last_step`; one that was torn by a crash is later than that."""
    if not last_step or not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= last_step]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UntrustedFileError(
            f"Expected the records of the run in {path}, cannot read them: {error!r}. Move the file away to resume "
            "without them."
        ) from error
