"""One prefix, and the marker in it that says how it was built and what launching it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .environ import Facts
from .files import is_number, read_json, write_atomic, write_json

RECORD_LIMIT = 8_000_000  # bytes


@dataclass(frozen=True)
class Record:
    """The marker's content: how a prefix was built, and what launching it needs. Sizes in bytes, times in seconds."""

    name: str
    fingerprint: str
    engine: str
    conda: bool = True
    commit: str = ""
    repository: str = ""
    environment_file: str = ""
    built: float = 0
    seconds: float = 0
    size: int = 0
    user: str = ""
    host: str = ""
    activation: Mapping[str, str] = field(default_factory=dict)
    path: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    durations: Mapping[str, float] = field(default_factory=dict)
    packages: Sequence[Mapping[str, str]] = ()

    def facts(self, prefix: Path) -> Facts:
        """What the launch environment is computed from."""
        return Facts(
            prefix=str(prefix),
            conda=self.conda,
            activation=self.activation,
            variables=self.variables,
            path=tuple(self.path),
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(key) and _is_text(text) for key, text in value.items())


_SHAPES: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("name", "fingerprint", "engine", "commit", "repository"), _is_text),
    **dict.fromkeys(("environment_file", "user", "host"), _is_text),
    **dict.fromkeys(("built", "seconds", "size"), is_number),
    **dict.fromkeys(("activation", "variables"), _are_texts),
    "conda": lambda value: isinstance(value, bool),
    "path": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "durations": lambda value: isinstance(value, dict) and all(map(is_number, value.values())),
    "packages": lambda value: isinstance(value, list) and all(map(_are_texts, value)),
}


@dataclass(frozen=True)
class Generation:
    """One prefix: the n-th build of a fingerprint."""

    path: Path
    fingerprint: str
    number: int

    @property
    def marker(self) -> Path:
        """The file that says that the prefix is complete; kernels that run from it hold its shared lock."""
        return self.path / ".sepal" / "build.json"

    @property
    def used(self) -> Path:
        """A file that launches read, and nobody else: when that was last is when the prefix was last used."""
        return self.path / ".sepal" / "used"

    @property
    def store_root(self) -> Path:
        """The store that it lies in."""
        return self.path.parents[2]

    @property
    def python(self) -> str:
        """The kernel's interpreter."""
        return str(self.path / "bin" / "python")

    def record(self) -> Record:
        """What the marker says. Raises OSError and ValueError."""
        document = read_json(self.marker, RECORD_LIMIT)
        if not isinstance(document, dict):
            raise ValueError(f"{self.marker}: expected an object")
        known = {name: value for name, value in document.items() if name in _SHAPES}
        for name, value in known.items():
            if not _SHAPES[name](value):
                raise ValueError(f"{self.marker}: {name}: unexpected {type(value).__name__}")
        try:
            return Record(**known)
        except TypeError as error:
            raise ValueError(f"{self.marker}: {error}") from None

    def publish(self, record: Record) -> None:
        """Write the marker: from now on this prefix is ready."""
        write_atomic(self.used, "read by each launch\n")
        write_json(self.marker, asdict(record), durable=True)
