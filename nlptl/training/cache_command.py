"""`nlptl cache`: list or clear the cache of features."""

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Literal

from nlptl.training.cache import Entry, cache_folder, describe_size, entries, remove_entry, remove_stale
from nlptl.wording import align_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Cache of features of frozen encoders and token ids, in NLPTL_CACHE or the platform's folder for caches."""

    action: Literal["list", "clear"]
    """list: show the entries. clear: remove them; they are computed again when they are needed."""


def manage_cache(config: CacheConfig) -> None:
    """List or clear the cache of features, and log its entries or their number."""
    folder = cache_folder()
    held = entries(folder)
    if config.action == "list":
        if held:
            logger.info(_table(held))
        logger.info("%s in %s", _total(len(held), sum(entry.size for entry in held)), folder)
        return
    remove_stale(folder)
    size = sum(remove_entry(entry.path) for entry in held)
    with contextlib.suppress(OSError):  # it has other files, or does not exist
        (folder / "features").rmdir()
    logger.info("removed %s from %s", _total(len(held), size), folder)


def _total(count: int, size: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'}, {describe_size(size)}"


def _table(held: list[Entry]) -> str:
    rows = [("encoder", "split", "texts", "pooling", "width", "size", "last used")]
    for entry in reversed(held):
        last_used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        about = [entry.about[name] for name in ("encoder", "split", "texts", "pooling", "width")]
        rows.append((*about, describe_size(entry.size), last_used))
    return align_table(rows)
