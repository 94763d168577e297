"""Label names and their ids: outside the library a label is a name, inside a tensor it is an id."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nlptl.errors import DataError
from nlptl.values import check_fields
from nlptl.wording import list_names


@dataclass(frozen=True)
class Labels:
    """The names of the classes in the order of their ids: `names[i]` is the class with id `i`."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if len(set(self.names)) != len(self.names) or len(self.names) < 2:
            raise DataError(
                f"Expected two or more different label names, found {list(self.names)}. "
                "A classifier needs at least two classes: check the label column."
            )

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "Labels":
        """Return the labels that occur in `names`, each once; whole numbers in numeric order, else sorted.

        Raises:
            DataError: If fewer than two different names occur.
        """
        distinct = sorted(set(names))
        if all(name.isascii() and name.isdigit() for name in distinct):
            distinct.sort(key=lambda name: (int(name), name))
        return cls(tuple(distinct))

    def __len__(self) -> int:
        return len(self.names)

    def ids(self, names: Sequence[str]) -> np.ndarray:
        """Return the ids of `names` as int64, shape [len(names)].

        Raises:
            DataError: If a name is not one of these labels.
        """
        id_of = {name: i for i, name in enumerate(self.names)}
        unknown = sorted({name for name in names if name not in id_of})
        if unknown:
            raise DataError(
                f"Expected labels {list_names(self.names)}, found {list_names(unknown)} as well. "
                "Remove or rename these rows, or train with examples of these classes."
            )
        return np.fromiter((id_of[name] for name in names), dtype=np.int64)
