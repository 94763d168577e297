"""Several processes that train together: how long they wait for each other, and what they report when one is lost."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from torch import distributed
from torch.distributed import DistError, Store, TCPStore

from nlptl.errors import ConfigError, PeerLostError

VARIABLE, DEFAULT_TIMEOUT = "NLPTL_PEER_TIMEOUT", 600
STORE_SECONDS = 2
"""Longest wait for a connection to the store in which the processes leave their last words."""


def peer_timeout() -> timedelta:
    """Return how long a process waits for another one: `NLPTL_PEER_TIMEOUT` in seconds, ten minutes by default.

    A process that reads, writes or computes alone for longer than that is treated as lost by those that wait for it.

    Raises:
        ConfigError: If the variable is not a number above 0.
    """
    given = os.environ.get(VARIABLE, str(DEFAULT_TIMEOUT))
    with suppress(ValueError, OverflowError):
        if float(given) > 0:
            return timedelta(seconds=float(given))
    raise ConfigError(f"Expected a number of seconds above 0 in {VARIABLE}, found {given!r}. Set it, or unset it.")


def not_met(num_processes: int) -> PeerLostError:
    """Return the error for processes that did not all come together at the start."""
    address = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return PeerLostError(
        f"Expected {num_processes} processes to meet at {address} within {peer_timeout().total_seconds():.0f} s, found "
        f"fewer. See the output of the others, check that every machine can reach that address, or raise {VARIABLE}."
    )


@contextmanager
def peer_errors() -> Iterator[None]:
    """Context manager and decorator: an error that comes from a lost process becomes a `PeerLostError`.

    Any other error is left for the other processes to report.
    """
    try:
        yield
    except Exception as error:
        known = explained(error)
        if known is error:
            raise
        raise known from error


def explained(error: BaseException) -> BaseException:
    """Return a `PeerLostError` if `error` comes from a lost process; else report it to the others and return it."""
    if isinstance(error, PeerLostError) or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return error
    # gloo has no type for its errors, but its messages quote its source files.
    if not isinstance(error, DistError) and not (isinstance(error, RuntimeError) and "gloo" in str(error)):
        said = f"rank {distributed.get_rank()} said: {type(error).__name__}: {error}"[:1000]
        _with_store(lambda store: store.set(_key(distributed.get_rank()), said))
        return error
    said = _last_words()
    seconds = peer_timeout().total_seconds()
    return PeerLostError(
        f"Lost another process of this training: its connection is closed, or it gave no answer for {seconds:g} s. "
        f"{said or 'Its own output says why, if it could still print.'}\n"
        "Fix the cause, then start all processes again with --resume. If one of them only works alone for long, raise "
        f"{VARIABLE}."
    )


def _last_words() -> str:
    """Return the errors that other processes have reported before they ended; "" if there are none or no store."""
    found: list[str] = []

    def read(store: Store) -> None:
        keys = [_key(rank) for rank in range(distributed.get_world_size())]
        found.extend(store.get(key).decode() for key in keys if store.check([key]))

    _with_store(read)
    return "; ".join(found)


def _key(rank: int) -> str:
    """Return the name of a process's last words in the store, which outlives restarts by torchrun."""
    return f"nlptl/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"


def _with_store(action: Callable[[Store], object]) -> None:
    """Call `action` with the store of the launch, waiting a few seconds: its host may be the lost process."""

    def act() -> None:
        with suppress(KeyError, ValueError, OSError, RuntimeError):
            address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            # Where nobody listens, TCPStore would print a stack of C++ frames.
            socket.create_connection(address, timeout=STORE_SECONDS).close()
            seconds = timedelta(seconds=STORE_SECONDS)
            action(TCPStore(*address, is_master=False, wait_for_workers=False, timeout=seconds))

    # Where the host is stopped, TCPStore waits forever, whatever its timeout. A thread that is answered while Python
    # ends would abort the process, so that all but such a host gets time enough to answer.
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(timeout=4 * STORE_SECONDS)
