"""Data sets of the Hugging Face Hub, or from its cache."""

import logging
from functools import partial
from typing import Any

from nlptl.config import Columns
from nlptl.data.arrow_files import dataset_table
from nlptl.data.sources import SPLIT_NAMES, Part
from nlptl.errors import ConfigError, DataError, ResourceError

logger = logging.getLogger(__name__)


def hub_parts(name: str, columns: Columns) -> dict[str, list[Part]]:
    """Load a data set of the Hub, and return the parts of train, and of validation and test where it has them.

    `name` is a Hub id; `name:configuration` chooses one of several, and `name@revision` pins it.

    Raises:
        ConfigError: If `columns` has a separator, or no header.
        ResourceError: If the Hub cannot be reached or does not have it.
        DataError: If it has no train split, or needs more than its name to load.
    """
    if columns.separator is not None or not columns.header:
        raise ConfigError(f"Expected --separator and --no-header only with CSV and TSV files, found {name}.")
    loaded, parts = _download(name), dict[str, list[Part]]()
    for given, dataset in loaded.items():
        split, source = SPLIT_NAMES.get(str(given).lower()), f"{name}, split {given}"
        if split is None:
            logger.info("%s is left out: neither train, validation nor test", source)
        else:
            parts[split] = [(source, partial(dataset_table, source, dataset))]
    if "train" not in parts:
        raise DataError(
            f"Expected a split 'train' in {name}, found {', '.join(map(repr, loaded))}. "
            "Pass another data set, or save the split you mean as a file and pass that."
        )
    return parts


def _download(name: str) -> dict[str, Any]:
    import datasets
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HFValidationError, HTTPError

    name_and_configuration, _, revision = name.partition("@")
    repository, _, configuration = name_and_configuration.partition(":")
    try:
        if not is_offline_mode():
            # One short request first: without a network, load_dataset alone retries for half a minute.
            HfApi().dataset_info(repository, revision=revision or None, timeout=10)
        return dict(datasets.load_dataset(repository, configuration or None, revision=revision or None))
    except (OSError, HTTPError, HFValidationError) as error:
        raise ResourceError(
            f"Expected to load the data set {name!r} from the Hugging Face Hub, found: {_reason(error)}. "
            "Check the spelling, pass a local file or folder or sample:rotten_tomatoes instead, or run "
            f"'hf download {repository} --repo-type dataset --local-dir FOLDER' on a machine with a network and pass "
            "the folder with its files. If it was loaded here before, set HF_HUB_OFFLINE=1."
        ) from error
    except (datasets.exceptions.DatasetsError, ValueError, RuntimeError) as error:
        raise DataError(
            f"Expected a data set that loads by its name alone, found for {name!r}: {_reason(error)}. "
            f"Download its files with 'hf download {repository} --repo-type dataset --local-dir FOLDER' and pass them."
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
