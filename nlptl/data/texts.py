"""Texts that need not fit into memory: a list if they are few, else a memory-mapped file."""

import io
import logging
import mmap
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, overload

import numpy as np
import platformdirs

logger = logging.getLogger(__name__)

LARGE_BYTES = 2**24
"""Texts that take more memory than this as a list go into a file."""
BYTES_PER_STRING = 57
"""Memory of a Python string besides its characters, with its place in a list."""
TEXTS_AT_ONCE = 1000


def cache_folder() -> Path:
    """Return the folder for large files: `NLPTL_CACHE`, or the platform's folder for caches."""
    chosen = os.environ.get("NLPTL_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("nlptl"))


class Texts(Sequence[str]):
    """Some of the texts in a file, in an order of their own: read like a list, but without its memory.

    Each text is read from the file on access; the system caches as much of the file as fits into memory.
    """

    def __init__(self, content: "bytes | mmap.mmap", offsets: np.ndarray, places: np.ndarray) -> None:
        """Text i is UTF-8, `content[offsets[places[i]]:offsets[places[i] + 1]]`."""
        self._content = content
        self._offsets = offsets
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if not isinstance(index, slice):
            return self[index : index + 1 or None][0]
        places = self._places[index].astype(np.int64)
        starts, ends = self._offsets[places].tolist(), self._offsets[places + 1].tolist()
        return [self._content[start:end].decode() for start, end in zip(starts, ends, strict=True)]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), TEXTS_AT_ONCE):
            yield from self[start : start + TEXTS_AT_ONCE]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | Texts):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: np.ndarray) -> "Texts":
        """Return the texts at `indices`, in that order, over the same file."""
        return Texts(self._content, self._offsets, self._places[indices])


class TextCollector:
    """Takes texts one after the other; when they become many, they go into a file without a name.

    The file is gone when the process ends, however it ends. If the file cannot be written, its bytes stay in memory.
    """

    def __init__(self) -> None:
        self._few: list[str] = []
        self._size = 0
        self._offsets = array("q", [0])
        self._file: IO[bytes] | None = None

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def extend(self, texts: Sequence[str]) -> None:
        """Take texts that UTF-8 can encode."""
        if self._file is None:
            self._few.extend(texts)
            self._size += sum(map(len, texts)) + BYTES_PER_STRING * len(texts)
            if self._size > LARGE_BYTES:
                few, self._few = self._few, []
                self._file, self._size = _open_file(), 0
                self.extend(few)
            return
        contents = [text.encode() for text in texts]
        self._offsets.extend((self._size + np.cumsum([len(content) for content in contents], dtype=np.int64)).tolist())
        self._write(b"".join(contents))

    def finish(self) -> Sequence[str]:
        """Return all texts: a list, or `Texts` over the file."""
        if self._file is None:
            return self._few
        count = len(self._offsets)
        self._write(bytes(-self._size % self._offsets.itemsize))
        start = self._size
        self._write(memoryview(self._offsets).cast("B"))
        content = self._file.getvalue() if isinstance(self._file, io.BytesIO) else _map(self._file)
        offsets = np.frombuffer(content, dtype=np.int64, count=count, offset=start)
        return Texts(content, offsets, np.arange(count - 1, dtype=np.int32 if count < 2**31 else np.int64))

    def _write(self, content: bytes | memoryview) -> None:
        assert self._file is not None
        rest = memoryview(content)
        try:
            while rest:  # unbuffered, so that a full disk shows here
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            file, self._file = self._file, _in_memory(error)
            if self._size:
                self._file.write(memoryview(_map(file))[: self._size])
            self._file.write(content)
        self._size += len(content)


class Concatenation:
    """Texts as bytes that differ whenever the texts differ, for hashing: in pieces, of which memory holds one."""

    def __init__(self, *parts: Sequence[str]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for texts in self._parts:
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                piece = texts[start : start + TEXTS_AT_ONCE]
                yield "".join(f"{len(text)}:{text}" for text in piece).encode("utf-8", errors="surrogatepass")


def _open_file() -> IO[bytes]:
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.TemporaryFile(buffering=0, dir=folder)
    except OSError as error:
        return _in_memory(error)


def _in_memory(error: OSError) -> io.BytesIO:
    logger.warning(
        "keeping the texts in memory, since they cannot be written to %s: %s. Free some space, fix the permissions, or "
        "set NLPTL_CACHE to another folder",
        cache_folder(),
        error.strerror,
    )
    return io.BytesIO()


def _map(file: IO[bytes]) -> mmap.mmap:
    """Map all of a file and close it; the map stays."""
    with file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
