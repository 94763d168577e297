"""What a run reports while it goes on: lines for people, records for programs."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)


class Tracker:
    """One bar on the terminal of the main process, plain lines elsewhere, and one JSON object per record."""

    def __init__(self, path: Path | None, *, num_steps: int, first_step: int, is_main_process: bool) -> None:
        """Open the records in `path`; those after `first_step`, of an interrupted run, are dropped."""
        self.path = path if is_main_process else None
        self.started = time.monotonic()
        if self.path is not None:
            kept = self.path.read_text(encoding="utf-8").splitlines() if first_step and self.path.is_file() else []
            kept = [line for line in kept if line and json.loads(line)["step"] <= first_step]
            self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
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

    def record(self, **values: Any) -> None:
        """Append one object to metrics.jsonl; `step` must be among the values."""
        if self.path is not None:
            seconds = round(time.monotonic() - self.started, 3)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**values, "seconds": seconds}) + "\n")

    def say(self, line: str) -> None:
        """Log a line without tearing the bar."""
        with self.bar.external_write_mode(nolock=True):
            logger.info(line)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()
