"""Only one process at a time writes into the folder of a run."""

import errno
import json
import logging
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from nlptl.errors import ConfigError

logger = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks."""


class FolderLock:
    """A lock on the hidden file `.lock` in a folder, held as long as this object or another one on the folder lives.

    The system releases it when the process ends, however it ends. The file names the process that holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder.resolve() / ".lock"
        # One lock per path, since this process may open a run more than once.
        self._lock = FileLock(self.path, blocking=False, thread_local=False, is_singleton=True, fallback_to_soft=False)
        self._is_taken = self._is_new = False

    def take(self) -> None:
        """Lock the folder, which must exist.

        Raises:
            ConfigError: If another process has locked it.
            OSError: If the folder cannot be written.
        """
        if self._lock.is_locked and not self.path.exists():
            self._lock.release(force=True)  # an earlier folder at this path, which was deleted
        elif self._is_taken:
            return
        self._is_new = not self.path.exists()
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"Expected a folder that no other process trains in, found {self.folder} in use by {self._holder()}. "
                "Wait until it has ended, or pass another --output-dir."
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logger.warning("the file system of %s has no locks: start no other run in this folder", self.folder)
            return
        self._is_taken = True
        self.path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n", encoding="utf-8")

    def release(self, *, of_all: bool = False) -> None:
        """Undo `take`; `of_all`: release the locks of all objects on this folder, which is about to be moved."""
        if self._is_taken and self._is_new and not of_all:
            self.path.unlink(missing_ok=True)  # a refused folder is left as it was
        if self._is_taken or of_all:
            self._lock.release(force=of_all)
        self._is_taken = False

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_text(encoding="utf-8"))
            return f"pid {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, TypeError, KeyError):
            return "a process that has not yet said which"
