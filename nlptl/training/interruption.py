"""SIGINT and SIGTERM while a model trains: the step is finished and saved, then the process ends."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what batch systems and launchers send before they kill."""


class Left(KeyboardInterrupt):
    """The first SIGINT, on which what is being written is finished; a second one is a plain KeyboardInterrupt."""


class Interruption:
    """Within it, the first of the signals leaves by `leave`, and the next one does what it did before.

    While steps are taken, the first one is noted in `signals` and nothing else. Signals reach the main thread alone; in
    another thread nothing is changed.
    """

    def __init__(self) -> None:
        self.signals = [0] * len(SIGNALS)
        self._is_stepping = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    @contextmanager
    def while_stepping(self) -> Iterator[list[int]]:
        """Within it, the first signal is noted alone; give the list in which it is."""
        self._is_stepping = True
        try:
            yield self.signals
        finally:
            self._is_stepping = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signals[SIGNALS.index(signal.Signals(number))] = 1
        before = self._before[signal.Signals(number)]
        self._restore()
        if self._is_stepping:
            if os.environ.get("RANK", "0") == "0":
                # A log line could meet one that is half written; this cannot. Who reads it may have got the signal too.
                line = f"\nnlptl: {signal.Signals(number).name}: ending after this step; a second one ends at once\n"
                with suppress(OSError):
                    os.write(2, line.encode())
        elif before in (signal.SIG_DFL, signal.default_int_handler):
            leave(self.signals)
        elif callable(before):
            before(number, frame)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def leave(signals: list[int]) -> NoReturn:
    """End as a process does that was asked to by one of SIGNALS.

    Raises:
        SystemExit: With code 143 for SIGTERM.
        Left: For SIGINT.
    """
    if signals[SIGNALS.index(signal.SIGTERM)]:
        raise SystemExit(128 + signal.SIGTERM)
    raise Left
