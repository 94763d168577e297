"""SIGINT and SIGTERM while a model trains: the step is finished and saved, then the process ends."""

import os
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what batch systems and launchers send before they kill."""


class Interruption:
    """Within it, the first of the signals is noted in `signals` and nothing else; the next one does what it did before.

    Signals reach the main thread alone; in another thread nothing is changed.
    """

    def __init__(self) -> None:
        self.signals = [0] * len(SIGNALS)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signals[SIGNALS.index(signal.Signals(number))] = 1
        self._restore()
        if os.environ.get("RANK", "0") == "0":
            # A log line could meet one that is half written; this cannot.
            line = f"\nnlptl: {signal.Signals(number).name}: ending after this step; a second one ends at once\n"
            os.write(2, line.encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def leave(signals: list[int]) -> NoReturn:
    """End as a process does that was asked to by one of SIGNALS.

    Raises:
        SystemExit: With code 143 for SIGTERM.
        KeyboardInterrupt: For SIGINT.
    """
    if signals[SIGNALS.index(signal.SIGTERM)]:
        raise SystemExit(128 + signal.SIGTERM)
    raise KeyboardInterrupt
