"""What an engine would install: the result of a dry run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Solution:
    """Packages as `name version`; a local project may be its path.

    `size` is what would be downloaded, in bytes, 0 where nobody knows; `notes` say what could not be tried.
    """

    conda: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    size: int = 0
    notes: tuple[str, ...] = ()

    def version(self, name: str) -> str:
        """The version of a conda package, "" when it is none of them."""
        return next((text.split()[1] for text in self.conda if text.split()[0] == name), "")

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Any) -> Solution:
        """The value that `to_json` wrote. Raises KeyError and TypeError."""
        lists = {name: tuple(str(item) for item in document[name]) for name in ("conda", "pip", "notes")}
        return cls(**lists, size=int(document["size"]))
