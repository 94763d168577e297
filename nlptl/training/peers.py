"""What happens when one of several processes is lost: the others say which one it was, and end too.

Processes that train together wait for each other in every step. When one is gone, what the others get is an error of
the connection, or with some backends nothing at all; here they find out who it was, and what it said last.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

import psutil
from accelerate import PartialState
from torch.distributed import DistError, PrefixStore, Store
from torch.distributed.distributed_c10d import _get_default_store

from nlptl.errors import ConfigError, PeerLostError

VARIABLE, DEFAULT_TIMEOUT = "NLPTL_PEER_TIMEOUT", 600
ROLL_CALL = 5
"""Seconds in which processes that are still there say so, once the connection to one is lost."""
GRACE = 10
"""Seconds from the end of a process until the others end where they stand, if no error has ended them by then."""
LAST_LOOK = 5
"""Seconds that a process which leaves waits at most for the store to answer what it has asked."""


@dataclass(frozen=True)
class Peer:
    """A process of the training: its rank, where it runs, and what tells that machine from others."""

    rank: int
    host: str
    pid: int
    machine: str

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"

    def fate(self) -> str:
        """Return "gone" or "stopped", as seen from this machine; "" where it runs, or is on another machine."""
        if self.machine != _machine():
            return ""
        try:
            status = psutil.Process(self.pid).status()
        except psutil.NoSuchProcess:
            return "gone"
        if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            return "stopped"
        return "gone" if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) else ""


_peers: list[Peer] = []
"""All processes, in the order of their ranks, this one too; empty where there is one."""

_is_silent = threading.Event()
"""Set once the store has not answered."""

_is_ending = threading.Event()
"""Set once this process knows that another one is lost."""

_num_unfinished = 0
"""How many `undisturbed` the main thread is in."""


def peer_timeout() -> timedelta:
    """Return how long a process waits for another one: `NLPTL_PEER_TIMEOUT` in seconds, by default ten minutes.

    A process that reads, writes or computes alone for longer than that is taken for lost by those who wait for it.

    Raises:
        ConfigError: If the variable is no number above 0.
    """
    given = os.environ.get(VARIABLE, str(DEFAULT_TIMEOUT))
    with suppress(ValueError, OverflowError):
        if float(given) > 0:
            return timedelta(seconds=float(given))
    raise ConfigError(f"Expected a number of seconds above 0 in {VARIABLE}, found {given!r}. Set it, or unset it.")


def meet(rank: int, num_processes: int) -> None:
    """Tell the other processes who this one is, and learn who they are. Every process has to call this.

    Raises:
        PeerLostError: If one of them does not come.
    """
    if _peers or num_processes == 1:
        return
    me = Peer(rank, socket.gethostname(), os.getpid(), _machine())
    try:
        _store().set(f"peer/{rank}", json.dumps(vars(me)))
        met = [Peer(**json.loads(_store().get(f"peer/{other}"))) for other in range(num_processes)]
    except DistError as error:
        raise not_met(num_processes) from error
    _peers.extend(met)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def not_met(num_processes: int) -> PeerLostError:
    """Return the error that says that not all of the processes came together."""
    address = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return PeerLostError(
        f"Expected {num_processes} processes to meet at {address} within {peer_timeout().total_seconds():.0f} s, found "
        f"fewer. See what the others say, check that every machine can reach that address, or raise {VARIABLE}."
    )


@contextmanager
def together() -> Iterator[None]:
    """Within it, processes that wait for each other end together, whatever the backend says; they leave it together.

    Raises:
        PeerLostError: If another process is lost.
    """
    if not _peers:
        yield
        return
    # The backend for GPUs does not notice that a process on another GPU is gone, and waits until it times out.
    has_left = threading.Event()
    watching = threading.Thread(target=_watch, args=(has_left,), daemon=True)
    watching.start()
    try:
        yield
        _wait_for_all()
    except Exception as error:
        known = explained(error)
        if known is error:
            raise
        raise known from error
    finally:
        has_left.set()
        # A thread that asks the store while Python ends, and its keeper has ended, would abort the process.
        watching.join(timeout=LAST_LOOK)


@contextmanager
def undisturbed() -> Iterator[None]:
    """What is done within it, such as writing a checkpoint, is finished before this process ends because of another."""
    global _num_unfinished
    _num_unfinished += 1
    try:
        yield
    finally:
        _num_unfinished -= 1


def explained(error: BaseException) -> BaseException:
    """Return the error that names the lost process, if that is what `error` comes from; else tell the others of it."""
    if not _peers or isinstance(error, PeerLostError):
        return error
    # gloo raises a plain RuntimeError and names itself in it.
    if not isinstance(error, DistError) and not (isinstance(error, RuntimeError) and "gloo" in str(error)):
        _post(f"words/{_me()}", f"{type(error).__name__}: {error}"[:1000])
        return error
    _is_ending.set()
    return _lost(*_find_lost())


def _find_lost() -> tuple[list[Peer], str]:
    """Return which processes are lost and how; none, if all are there but do not reach each other."""
    _post(f"here/{_me()}", "yes")
    deadline = time.monotonic() + ROLL_CALL
    while True:
        here, words = _read("here"), _read("words")
        absent = [peer for peer in _peers if peer.rank != _me() and peer.rank not in here]
        for fate in ("gone", "stopped"):
            if found := [peer for peer in absent if peer.fate() == fate]:
                return found, fate
        elsewhere = [peer for peer in absent if peer.machine != _machine()]
        if found := [peer for peer in elsewhere if peer.rank in words]:
            return found, "gone"
        if not absent or time.monotonic() > deadline:
            # What is seen to run on this machine may be busy; of the other machines only the answers are seen.
            return elsewhere or absent, "not answering"
        time.sleep(0.1)


def _lost(peers: list[Peer], fate: str) -> PeerLostError:
    num_processes, seconds = len(_peers), peer_timeout().total_seconds()
    if not peers:
        return PeerLostError(
            f"Expected {num_processes} processes that reach each other, found a connection lost or {seconds:.0f} s "
            f"without an answer, with all of them there. Start all of them again with --resume; if one works alone "
            f"for long, raise {VARIABLE}."
        )
    words = _read("words")
    said = [f"; rank {peer.rank} said: {words[peer.rank]}" for peer in peers if peer.rank in words]
    found = " and ".join(map(str, peers))
    hint = "" if fate == "gone" else f", or raise {VARIABLE} from {seconds:g} seconds"
    return PeerLostError(
        f"Expected {num_processes} processes until the end, found {found} {fate}{''.join(said)}\n"
        f"Mend what stopped it{hint}; then start all of them again with --resume."
    )


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    """Say which process is lost, where launchers would end this one without a word when they see that one is."""
    if _is_ending.is_set():
        return
    if gone := _gone():
        if _num_unfinished:
            return  # What comes next needs the other processes, and finds out.
        _is_ending.set()
        raise _lost(gone, "gone")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _watch(has_left: threading.Event) -> None:
    """End this process when another one is gone for long, as this machine sees or one of the others has told."""
    since = None
    while not has_left.wait(1):
        gone = _gone()
        for peer in gone:
            _post(f"gone/{peer.rank}", "yes")
        gone = gone or [_peers[rank] for rank in _read("gone")]
        since = (since or time.monotonic()) if gone and not _num_unfinished else None
        if since is not None and time.monotonic() - since > GRACE:
            sys.stderr.write(f"nlptl: error: {_lost(gone, 'gone')}\n")
            sys.stderr.flush()
            os._exit(PeerLostError.exit_code)


def _gone() -> list[Peer]:
    """Return which of the others on this machine are gone."""
    return [peer for peer in _peers if peer.rank != _me() and peer.fate() == "gone"]


def _wait_for_all() -> None:
    PartialState().wait_for_everyone()


def _me() -> int:
    rank: int = PartialState().process_index
    return rank


def _machine() -> str:
    """Return what the process ids of this machine have in common: its boot, and the namespace of a container."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.is_file() and namespace.is_symlink():
        return f"{boot.read_text().strip()} {namespace.readlink()}"
    return str(uuid.getnode())


def _store() -> Store:
    """Return where the processes leave each other words, while the one that keeps it is there."""
    return PrefixStore("nlptl", _get_default_store())


def _post(key: str, value: str) -> None:
    _bounded(lambda: _store().set(key, value))


def _read(key: str) -> dict[int, str]:
    """Return what the processes have left under `key`, by rank; nothing, if the store does not answer."""
    found: dict[int, str] = {}

    def read() -> None:
        store = _store()
        for peer in _peers:
            if store.check([f"{key}/{peer.rank}"]):
                found[peer.rank] = store.get(f"{key}/{peer.rank}").decode()

    _bounded(read)
    return dict(found)


def _bounded(action: Callable[[], object]) -> None:
    """Do what needs the store, for two seconds at most: its keeper may be the one that is gone or stopped."""

    def act() -> None:
        with suppress(RuntimeError):
            action()
            is_done.set()

    if _is_silent.is_set():
        return
    is_done = threading.Event()
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(timeout=2)
    if not is_done.is_set():
        _is_silent.set()  # Every further question would take as long, or print a stack of C++ frames.
