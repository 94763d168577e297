"""SIGINT and SIGTERM while a model trains: the step is finished and saved, then the process ends."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType
from typing import Any, NoReturn

from nlptl.errors import ConfigError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what batch systems and launchers send before they kill."""


class Left(KeyboardInterrupt):
    """Ends a training that has finished its step and saved after SIGINT."""


class _Stop:
    """The signals that have come, and whether a training is in the middle of its steps."""

    def __init__(self) -> None:
        self.signals = [0] * len(SIGNALS)
        self.is_stepping = False
        self.handlers_before: dict[signal.Signals, Any] = {}

    def note(self, number: int, frame: FrameType | None) -> None:
        self.restore()
        if not self.is_stepping:
            if number == signal.SIGTERM:
                raise SystemExit(128 + number)
            raise KeyboardInterrupt
        self.signals[SIGNALS.index(signal.Signals(number))] = 1
        if os.environ.get("RANK", "0") == "0":
            # A log line could meet one that is half written; this cannot. Who reads it may have got the signal too.
            line = f"\nnlptl: {signal.Signals(number).name}: ending after this step; a second one ends at once\n"
            with suppress(OSError):
                os.write(2, line.encode())

    def restore(self) -> None:
        for number, handler in self.handlers_before.items():
            signal.signal(number, handler)
        self.handlers_before = {}


_stop: ContextVar[_Stop | None] = ContextVar("stop", default=None)
"""Set within `stop_on_signals`, in its thread alone: signals reach no other."""


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let the first SIGINT (Ctrl-C) or SIGTERM within it end a training cleanly; the second has its default effect.

    `Trainer.fit` then finishes its step, saves a checkpoint from which `--resume` (`Run.open(..., resume=True)`)
    continues, and raises KeyboardInterrupt for SIGINT or SystemExit with code 143 for SIGTERM; another training in the
    block does so after its first step. Outside of a training, both are raised at once. Use it in the main thread,
    around the call of `fit`: Python passes signals to no other. Afterwards the earlier signal handlers are back.

    Raises:
        ConfigError: If it is used in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("Expected stop_on_signals in the main thread, found another one, which no signal reaches.")
    stop = _Stop()
    token = _stop.set(stop)
    try:
        stop.handlers_before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            signal.signal(number, stop.note)
        yield
    finally:
        stop.restore()
        _stop.reset(token)


@contextmanager
def stepping() -> Iterator[list[int]]:
    """Within it, the first signal is only noted; give the list that says of each of SIGNALS whether it has come.

    Without `stop_on_signals`, signals have their usual effect, and the list stays as it is.
    """
    stop = _stop.get()
    if stop is None:
        yield [0] * len(SIGNALS)
        return
    stop.is_stepping = True
    try:
        yield stop.signals
    finally:
        stop.is_stepping = False


def is_asked_to_end() -> bool:
    """Return whether a signal has come while steps were taken: the next one has its default effect."""
    stop = _stop.get()
    return stop is not None and any(stop.signals)


def leave(signals: list[int]) -> NoReturn:
    """End as a process does that was asked to by one of SIGNALS.

    Raises:
        SystemExit: With code 143 for SIGTERM.
        Left: For SIGINT.
    """
    if signals[SIGNALS.index(signal.SIGTERM)]:
        raise SystemExit(128 + signal.SIGTERM)
    raise Left
