"""What is checked: a working tree, and its environment file as far as it can be read."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..envfile import (
    EnvironmentFile,
    compose,
    find_environment_file,
    parse_conda,
    parse_requirements,
    read_environment_file,
)
from ..errors import EnvironmentFileError
from ..requirements import read_text, requirement_lines
from ..settings import Sepal

_FAULT = re.compile(r"(?P<file>[^:]+): (?:line (?P<line>\d+):? )?(?P<message>.*)", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """Where something stands in the environment file: its section (`pip`, `channels`…), its text and its line."""

    section: str
    text: str
    line: int


@dataclass(frozen=True)
class Environment:
    """An environment file. `parsed` is what it says by itself, `file` with all that it refers to, `fault` why not."""

    path: str
    parsed: EnvironmentFile | None = None
    file: EnvironmentFile | None = None
    places: tuple[Place, ...] = ()
    fault: EnvironmentFileError | None = None

    def line(self, section: str, text: str = "") -> int:
        """The line of an entry of a section, or of the section's first entry; 0 where there is none."""
        found = [place for place in self.places if place.section == section]
        return next((place.line for place in found if place.text == text), found[0].line if found else 0)


@dataclass(frozen=True)
class Subject:
    """A repository to check. `remote` is its URL, or "" where nobody knows; `files` are relative to `root`.

    `more_files` says that there are more than are listed.
    """

    root: Path
    name: str
    settings: Sepal
    remote: str = ""
    branch: str = ""
    files: tuple[str, ...] = ()
    more_files: bool = False

    @property
    def kernel_name(self) -> str:
        """What its notebooks say."""
        return f"venv-{self.name.lower()}"

    @functools.cached_property
    def environment(self) -> Environment | None:
        """Its environment file, or None where it ships none."""
        path = find_environment_file(self.root)
        return None if path is None else _read(self.root, path)


def fault_place(error: EnvironmentFileError) -> tuple[str, int, str]:
    """(file, line or 0, message) of a reader's error, which begins with them."""
    found = _FAULT.match(error.message)
    return (found["file"], int(found["line"] or 0), found["message"]) if found else ("", 0, error.message)


def _read(root: Path, path: str) -> Environment:
    conda = not path.endswith(".txt")
    try:
        text = read_text(root, path)
        parsed = parse_conda(text, path) if conda else parse_requirements(text, path)
    except EnvironmentFileError as error:
        return Environment(path, fault=error)
    places = (
        tuple(_conda_places(text, path)) if conda else tuple(Place("pip", t, n) for n, t in requirement_lines(text))
    )
    try:
        return Environment(path, parsed, read_environment_file(root, path), places)
    except EnvironmentFileError as error:
        return Environment(path, parsed, None, places, error)


def _conda_places(text: str, path: str) -> Iterator[Place]:
    """Where each entry of a sound conda file stands."""
    root = compose(text, path)  # by the very reader that found it sound: PyYAML and libyaml differ about tabs
    assert isinstance(root, yaml.MappingNode)
    for key, value in root.value:
        if isinstance(value, yaml.ScalarNode):
            yield Place(str(key.value), value.value.strip(), key.start_mark.line + 1)
        elif isinstance(value, yaml.MappingNode):
            yield from (Place(str(key.value), str(name.value), name.start_mark.line + 1) for name, _ in value.value)
        else:
            yield from _list_places(str(key.value), value)


def _list_places(section: str, node: yaml.SequenceNode) -> Iterator[Place]:
    for item in node.value:
        if isinstance(item, yaml.ScalarNode):
            yield Place(section, re.sub(r"\s+", " ", item.value.strip()), item.start_mark.line + 1)
        elif isinstance(item, yaml.MappingNode):
            for _, value in item.value:
                with contextlib.suppress(AttributeError):
                    yield from _list_places("pip", value)
