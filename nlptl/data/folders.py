"""Which files of a folder hold train, validation and test, as people, the Hub and the datasets library lay them out."""

import json
import logging
import re
from collections import defaultdict
from pathlib import Path

from nlptl.data.sources import SPLIT_NAMES
from nlptl.data.tables import file_status, split_suffix
from nlptl.errors import DataError

# Until 2023, the Hub added a hash; its branches of Parquet files have folders of splits with numbered files.
_SHARD = re.compile(r"(?P<base>.+)-\d{5}-of-(?P<total>\d{5})(-[0-9a-f]+)?")
_NUMBERED = re.compile(r"\d{4,}")

logger = logging.getLogger(__name__)


def split_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of "train", and of "validation" and "test" where there are any.

    Raises:
        DataError: If there is no train, or more or less than all files of one split.
    """
    files = _find(folder)
    if "train" not in files:
        inner = [path for path in _listed(folder) if path.is_dir() and "train" in _find(path)]
        if len(inner) == 1:
            logger.info("%s: the data is in its folder %s", folder, inner[0].name)
            return split_files(inner[0])
        found = ", ".join(path.name for path in _listed(folder)[:20]) or "nothing"
        raise DataError(
            f"Expected a file such as train.csv in the folder {folder}, found {found}. "
            + (f"Pass one of its data sets, such as {inner[0]}." if inner else "")
            + ("Rename its files to train, validation and test, or pass one file, which is then split." * (not inner))
        )
    for split, paths in files.items():
        _check_shards(split, paths, folder)
    _check_links([path for paths in files.values() for path in paths], folder)
    return files


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"Expected a folder with data files, cannot list {folder}: {error.strerror}.") from error


def _find(folder: Path) -> dict[str, list[Path]]:
    if saved := _saved_files(folder):
        return {"train": saved}
    files: dict[str, list[Path]] = defaultdict(list)
    for path in _listed(folder):
        split = SPLIT_NAMES.get(_base(path).lower())
        if path.is_dir():
            found = [] if split is None else _saved_files(path) or [p for p in _listed(path) if split_suffix(p)[1]]
        else:
            found = [path] if split_suffix(path)[1] else []
        if split is not None:
            files[split] += found
        elif found and path.suffix != ".json":  # in which libraries describe the data
            logger.info("%s is left out: neither train, validation nor test", path)
    return {split: paths for split, paths in files.items() if paths}


def _saved_files(folder: Path) -> list[Path]:
    """Return the files of a data set that `save_to_disk` of the datasets library wrote; none in other folders."""
    state = folder / "state.json"
    if not state.is_file():
        return []
    try:
        values = json.loads(state.read_text(encoding="utf-8"))
        names = [file["filename"] for file in values["_data_files"]]
        is_intact = not values.get("_indices_data_files") and all(name == Path(name).name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_intact = False
    if not is_intact:
        raise DataError(
            f"Expected in {folder} a data set as save_to_disk of the datasets library writes it, found a state.json "
            "that does not list its files. Save it again with datasets 2 or newer, or pass one of its files."
        )
    return [folder / name for name in names]


def _base(path: Path) -> str:
    name, _ = split_suffix(path)
    shard = _SHARD.fullmatch(name)
    return shard["base"] if shard else name


def _check_shards(split: str, paths: list[Path], folder: Path) -> None:
    """Refuse two candidates for one split, and a split with missing shards."""
    names = ", ".join(path.name for path in paths)
    stems = [split_suffix(path)[0] for path in paths]
    totals = {shard["total"] if (shard := _SHARD.fullmatch(stem)) else "" for stem in stems}
    series = {(_base(path), split_suffix(path)[1]) for path in paths}
    if all(map(_NUMBERED.fullmatch, stems)):
        totals, series = {str(int(max(stems)) + 1)}, {("", suffix) for _, suffix in series}
    if len(series) > 1 or len(totals) > 1 or (totals == {""} and len(paths) > 1):
        raise DataError(f"Expected one file for {split} in {folder}, found {names}. Move all but one elsewhere.")
    if totals != {""} and int(min(totals)) != len(paths):
        raise DataError(
            f"Expected {int(min(totals))} parts of {split} in {folder}, found {len(paths)}: {names}. Fetch the others."
        )


def _check_links(paths: list[Path], folder: Path) -> None:
    """Refuse one file under two names."""
    names: dict[tuple[int, int], str] = {}
    for path in paths:
        status = file_status(path)
        name = path.name if status is None else names.setdefault((status.st_dev, status.st_ino), path.name)
        if name != path.name:
            raise DataError(
                f"Expected a file of its own for each split in {folder}, found {name} and {path.name}, which are one. "
                "Remove the link, or pass the one file, which is then split."
            )
