"""Token ids and features of frozen encoders on disk, shared by runs: complete and verified, or computed again.

`features/KEY/` holds one split: its token ids, or its features from one encoder, in parts; `entry.json` only describes
it to people. A part is an array without a header. Its name has its type and a hash of key, part and content, so that a
file is either correct or not used. Files are memory-mapped, so that they need not fit into memory and the processes of
a machine share them. There are no locks: two processes that build the same entry write the same files.
"""

import contextlib
import hashlib
import json
import logging
import mmap
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from nlptl.data.texts import cache_folder

logger = logging.getLogger(__name__)

KEY = re.compile(r"[0-9a-f]{64}")
PART = re.compile(r"(?P<part>\d{6})-(?P<sha256>[0-9a-f]{64})\.(?P<dtype>float32|float64|int32|int64)")
OLD_PART = re.compile(r"\d{6}-[0-9a-f]{64}\.safetensors")
"""A part written by nlptl 0.1.0, which is removed with its entry and never read."""
ASIDE = re.compile(r"\.nlptl-.*\.tmp")
ABOUT = "entry.json"
STALE_SECONDS = 3600
"""Age of a temporary file that a killed process has left behind: writing one takes seconds."""


@dataclass(frozen=True)
class Entry:
    """An entry of the cache: its folder, its description, its size in bytes, and when it was last used (Unix time)."""

    path: Path
    about: dict[str, Any]
    size: int
    last_used: float


class FeatureCache:
    """Features and token ids on disk, in a folder of limited size.

    Disk errors are never raised: a file that cannot be read counts as missing, and after the first failed write, a
    warning is logged and nothing more is written.
    """

    def __init__(self, folder: Path | None = None, *, gigabytes: float) -> None:
        """Use the cache in `folder`, by default `cache_folder()`, and limit it to `gigabytes` of 1e9 bytes."""
        self.folder = cache_folder() if folder is None else folder
        self.max_bytes = int(gigabytes * 1e9)
        self.is_writable = True
        self._used: set[str] = set()
        self._reasons: set[str | None] = set()

    def has_used(self, key: str) -> bool:
        """Return whether this object has read or written the entry before."""
        return key in self._used

    def parts(self, key: str) -> set[int]:
        """Return the numbers of the parts of an entry that have a file, without reading it."""
        found = (PART.fullmatch(path.name) for path in _files(self.folder / "features" / key))
        return {int(match["part"]) for match in found if match is not None}

    def read(self, key: str, part: int, *, shape: tuple[int | None, ...], dtype: str) -> np.ndarray | None:
        """Return the array of a part, mapped from its file; None if there is none.

        A damaged file, or one with another type, is removed with a warning. None in `shape` stands for any size.
        """
        for path in _files(self.folder / "features" / key):
            match = PART.fullmatch(path.name)
            if match is None or int(match["part"]) != part:
                continue
            try:
                content, digest = _map_own(path), _begin_hash(key, part)
                digest.update(content)
                if digest.hexdigest() != match["sha256"]:
                    raise ValueError("it is damaged")
                if match["dtype"] != dtype:
                    raise ValueError(f"it has {match['dtype']}, not {dtype}")
                return np.frombuffer(content, dtype).reshape([-1 if size is None else size for size in shape])
            except FileNotFoundError:  # another process has just removed it
                continue
            except OSError as error:
                if error.strerror not in self._reasons:  # one line, not one for each part
                    logger.warning("not using cached files such as %s: %s", path, error.strerror)
                self._reasons.add(error.strerror)
            except ValueError as error:
                logger.warning("removing the cached file %s and computing it again: %s", path, error)
                remove_file(path)
        return None

    def write(self, key: str, parts: Mapping[int, Iterable[np.ndarray]], *, about: Mapping[str, Any]) -> None:
        """Write parts of an entry, each of them completely or not at all.

        Args:
            key: Key of the entry.
            parts: The array of each part by number, in pieces along the first axis, which need not all fit into memory.
            about: Description for `nlptl cache list`.
        """
        if not self.is_writable:
            return
        entry = self.folder / "features" / key
        self._used.add(key)
        try:
            for folder in (self.folder, entry.parent, entry):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (entry / ABOUT).exists():
                with _new_file(entry, lambda: ABOUT) as file:
                    file.write(json.dumps(dict(about), indent=2).encode())
            for part, pieces in parts.items():
                _write_part(entry, key, part, pieces)
        except OSError as error:
            self.is_writable = False
            logger.warning(
                "continuing without writing to the cache in %s: %s. Free some space, fix the permissions, set "
                "NLPTL_CACHE to another folder, or pass --no-cache",
                self.folder,
                error.strerror,
            )

    def finish(self, key: str) -> None:
        """Mark an entry as used, and remove the least recently used ones until the cache fits its size limit.

        Entries that this object has used stay.
        """
        self._used.add(key)
        with contextlib.suppress(OSError):
            os.utime(self.folder / "features" / key)
        remove_stale(self.folder)
        held = entries(self.folder)
        total = sum(entry.size for entry in held)
        for entry in held:
            remove_stale(entry.path)
            if total > self.max_bytes and entry.path.name not in self._used:
                total -= remove_entry(entry.path)
                logger.info("removed from the full cache: %s", describe(entry))
        if total > self.max_bytes:
            logger.info("the cache holds %s, more than --cache-size, for this run", describe_size(total))


def entries(folder: Path) -> list[Entry]:
    """Return the entries of the cache in `folder`, the least recently used first."""
    found = []
    for path in _files(folder / "features"):
        if KEY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # another process may just have removed it
                size = sum(file.lstat().st_size for file in _files(path) if _is_ours(file))
                found.append(Entry(path, _about(path), size, path.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.last_used)


def remove_entry(path: Path) -> int:
    """Remove the files that nlptl has written into the folder of an entry, and return their size in bytes.

    The folder is removed too, unless it has other files.
    """
    size = 0
    for file in filter(_is_ours, _files(path)):
        with contextlib.suppress(OSError):
            file_size = file.lstat().st_size
            file.unlink()
            size += file_size
    with contextlib.suppress(OSError):
        path.rmdir()
    return size


def describe(entry: Entry) -> str:
    """Return a description of an entry."""
    about = entry.about
    return f"{about['texts']} texts of {about['encoder']}, {describe_size(entry.size)}"


def describe_size(size: int) -> str:
    """Return a number of bytes with its unit, such as '1.5 GB'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def _begin_hash(key: str, part: int) -> "hashlib._Hash":
    """Return the hash of a part before its content; it differs for every key and part, so that files cannot swap."""
    return hashlib.sha256(f"{key}/{part}/".encode())


def _map_own(path: Path) -> mmap.mmap:
    """Map a regular file of this user; other users who can write into the folder must not change a training."""
    info = path.lstat()
    if not stat.S_ISREG(info.st_mode):
        raise ValueError("it is not a regular file")
    if not info.st_size:  # an empty file cannot be mapped
        raise ValueError("it is damaged")
    if hasattr(os, "geteuid") and info.st_uid != os.geteuid():
        raise PermissionError(0, "they belong to another user")
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _write_part(entry: Path, key: str, part: int, pieces: Iterable[np.ndarray]) -> None:
    digest, dtype = _begin_hash(key, part), ""
    with _new_file(entry, lambda: f"{part:06d}-{digest.hexdigest()}.{dtype}") as file:
        for piece in pieces:
            dtype, content = str(piece.dtype), np.ascontiguousarray(piece).data
            file.write(content)
            digest.update(content)


@contextlib.contextmanager
def _new_file(folder: Path, name: Callable[[], str]) -> Iterator[IO[bytes]]:
    """Write a temporary file in `folder`, and rename it once it is on disk."""
    descriptor, aside = tempfile.mkstemp(prefix=".nlptl-", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(aside).replace(folder / name())
    except BaseException:
        remove_file(Path(aside))
        raise


def _files(folder: Path) -> list[Path]:
    """Return the paths in a folder, by name; empty if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_ours(path: Path) -> bool:
    return path.name == ABOUT or any(pattern.fullmatch(path.name) for pattern in (PART, OLD_PART, ASIDE))


def remove_stale(folder: Path) -> None:
    """Remove temporary files that killed processes have left in `folder`."""
    for path in _files(folder):
        with contextlib.suppress(OSError):
            if ASIDE.fullmatch(path.name) and time.time() - path.lstat().st_mtime > STALE_SECONDS:
                path.unlink()


def remove_file(path: Path) -> None:
    """Remove a file, if it exists and can be removed."""
    with contextlib.suppress(OSError):
        path.unlink()


def _about(entry: Path) -> dict[str, Any]:
    """Return the description in `entry.json`, with a question mark for values that are missing or not printable."""
    try:
        values = json.loads((entry / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = {}
    values = values if isinstance(values, dict) else {}
    words = {name: str(values.get(name, "?")) for name in ("encoder", "split", "texts", "width", "pooling")}
    return {name: word if word.isprintable() else "?" for name, word in words.items()}
