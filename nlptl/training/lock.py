"""One process at a time writes into the folder of a run."""

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
"""What file systems answer that do not know locks."""


class FolderLock:
    """The hidden file `.lock` in a folder, locked by this process as long as this object, or another one on it, lives.

    The system frees it when the process ends, however it ends. The file says who has it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder.resolve() / ".lock"
        # One for each path in this process, which may open a run more than once.
        self._lock = FileLock(self.path, blocking=False, thread_local=False, is_singleton=True, fallback_to_soft=False)
        self._is_taken = self._is_new = False

    def take(self) -> None:
        """Lock the folder, which has to be there.

        Raises:
            ConfigError: If another process has locked it.
            OSError: If the folder cannot be written.
        """
        if self._lock.is_locked and not self.path.exists():
            self._lock.release(force=True)  # of a folder that was here before
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
            logger.warning(
                "the file system of %s has no locks: going on without; start no other run in the folder", self.folder
            )
            return
        self._is_taken = True
        self.path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n", encoding="utf-8")

    def give_back(self, *, at_all: bool = False) -> None:
        """Undo `take`; `at_all`: and that of all others in this process, since the folder will be another one."""
        if self._is_taken and self._is_new and not at_all:
            self.path.unlink(missing_ok=True)  # A folder that was refused is left as it was.
        if self._is_taken or at_all:
            self._lock.release(force=at_all)
        self._is_taken = False

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_text(encoding="utf-8"))
            return f"pid {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, TypeError, KeyError):
            return "a process that has not yet said which"
