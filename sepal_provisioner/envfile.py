"""An environment file as a value, and the fingerprint of what decides an environment's content.

Two kinds: `sepal_environment.yml`, a conda environment file, which a lock may stand beside, and the legacy
`requirements.txt`. The YAML is read as
nodes, not as objects: every message can name its line, and an alias that unfolds into millions of entries is
counted, not built.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from .catalog import Problem, one_line
from .errors import EnvironmentFileError
from .lockfile import LOCK_FILE, Lock
from .lockreader import read_shipped_lock
from .requirements import local_files, read_text, requirement_lines
from .settings import Sepal

CONDA_FILE = "sepal_environment.yml"
REQUIREMENTS_FILE = "requirements.txt"
NODE_LIMIT = 20_000
TEXT_LIMIT = 1_000_000  # characters of all scalars, once the aliases are unfolded
WARNING_LIMIT = 20
C_LIMIT = 4_000  # characters; so much nesting libyaml stands
LAYOUT = 1  # counts up when the same file must be built anew because we build differently

_KEYS = ("name", "channels", "dependencies", "variables", "prefix", "platforms")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SPEC = re.compile(r"(?:(?P<channel>[^\s\[\]]+)::)?(?P<name>[A-Za-z0-9_*^][A-Za-z0-9_.*+-]*)")


@dataclass(frozen=True)
class EnvironmentFile:
    """What an environment holds, as its author wrote it.

    `path` is relative to the repository's root. `dependencies` are conda match specs, `pip` the lines of the pip
    section (for kind `requirements` the lines of the file itself), `files` the local files that decide what those
    lines mean, as (path relative to the root, sha256). `lock` is what the repository's lock says: then exactly that
    is installed, and nothing is solved.
    """

    kind: str  # "conda" | "requirements"
    path: str
    name: str = ""
    channels: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    warnings: tuple[Problem, ...] = ()
    lock: Lock | None = None

    def names(self) -> set[str]:
        """The conda packages it asks for by name, in lower case."""
        return {spec_name(spec) for spec in self.dependencies}

    def fingerprint(self, extra: Sequence[str] = ()) -> str:
        """Sixteen hex digits that are the same exactly when the environment's content would be.

        `extra` is what a site adds to this kind of environment (its default requirements). A comment, a blank line,
        the file's `name` and the order of the dependencies change nothing.
        """
        parts = {
            "layout": LAYOUT,
            "platform": f"{sys.platform}-{platform.machine()}",
            "kind": self.kind,
            "channels": self.channels,
            "dependencies": sorted(self.dependencies),
            "pip": self.pip,
            "variables": sorted(self.variables),
            "files": sorted(self.files),
            "extra": list(extra),
        }
        if self.lock:
            parts["lock"] = self.lock.content()
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> EnvironmentFile:
        """The value that `to_json` wrote."""
        return cls(
            kind=document["kind"],
            path=document["path"],
            name=document["name"],
            channels=tuple(document["channels"]),
            dependencies=tuple(document["dependencies"]),
            pip=tuple(document["pip"]),
            variables=tuple((key, value) for key, value in document["variables"]),
            files=tuple((path, digest) for path, digest in document["files"]),
            warnings=tuple(Problem(**problem) for problem in document["warnings"]),
            lock=Lock.from_json(document["lock"]) if document["lock"] else None,
        )


def spec_name(spec: str) -> str:
    """The package name of a conda match spec, in lower case: `gdal` of `conda-forge::gdal=3.8.*`."""
    found = _SPEC.match(spec)
    return found["name"].lower() if found else spec.lower()


def fingerprint_of(file: EnvironmentFile, settings: Sepal) -> str:
    """A file's fingerprint under the site's settings."""
    if file.kind != "requirements":
        return file.fingerprint()
    return file.fingerprint([*settings.default_requirements, f"python:{settings.requirements_python}"])


def find_environment_file(checkout: Path) -> str | None:
    """Which environment file a repository ships, or None: then it is an application, but no kernel."""
    for name in (CONDA_FILE, REQUIREMENTS_FILE):
        if (checkout / name).is_symlink() or (checkout / name).is_file():
            return name
    return None


def read_environment_file(checkout: Path, path: str) -> EnvironmentFile:
    """Parse a repository's environment file and its lock, and hash the local files that they refer to.

    Raises EnvironmentFileError, which names the file and the line.
    """
    try:
        text = read_text(checkout, path)
        parsed = _locked(checkout, parse_requirements(text, path) if path.endswith(".txt") else parse_conda(text, path))
        files = dict(local_files(checkout, path, parsed.pip))
        files |= dict(local_files(checkout, LOCK_FILE, [p.line for p in parsed.lock.pip])) if parsed.lock else {}
        return replace(parsed, files=tuple(sorted(files.items())))
    except EnvironmentFileError as error:  # it quotes the file, which may hold passwords and control characters
        raise EnvironmentFileError(one_line(error.message)) from None


def _locked(checkout: Path, file: EnvironmentFile) -> EnvironmentFile:
    """An environment file with the lock that stands beside it, if one does."""
    if file.kind == "requirements":
        unused = Problem(LOCK_FILE, f"it counts only beside {CONDA_FILE}; it is ignored")
        return replace(file, warnings=(*file.warnings, unused)) if os.path.lexists(checkout / LOCK_FILE) else file
    lock = read_shipped_lock(checkout)
    if lock is None:
        return file
    absent = sorted(name for name in file.names() - {package.name for package in lock.conda} if "*" not in name)
    warning = Problem(LOCK_FILE, f"{', '.join(absent)}: asked for by {file.path}, but not in the lock; make it anew")
    return replace(file, lock=lock, warnings=(*file.warnings, warning) if absent else file.warnings)


def parse_conda(text: str, path: str = CONDA_FILE) -> EnvironmentFile:
    """Parse a conda environment file. Raises EnvironmentFileError."""
    root = compose(text, path)
    if not isinstance(root, yaml.MappingNode):
        raise _fault(path, root, "expected `name:`, `channels:` and `dependencies:` at the top")
    sections, warnings = _sections(root, path)
    if "dependencies" not in sections:
        hint = next((w.message for w in warnings if "`dependencies`" in w.message), "")
        raise _fault(path, root, "there is no `dependencies:` section" + (f" ({hint})" if hint else ""))
    dependencies, pip = _dependencies(sections["dependencies"], path)
    channels = _strings(sections["channels"], path, "channels") if "channels" in sections else []
    if wrong := next((channel for channel in channels if channel.startswith("-")), None):
        raise _fault(path, sections["channels"], f"channels: {wrong!r} is not a channel")
    return EnvironmentFile(
        kind="conda",
        path=path,
        name=_scalar(sections["name"], path, "name") if "name" in sections else "",
        channels=tuple(channels),
        dependencies=tuple(dependencies),
        pip=tuple(pip),
        variables=tuple(_variables(sections["variables"], path)) if "variables" in sections else (),
        warnings=tuple(warnings),
    )


def parse_requirements(text: str, path: str = REQUIREMENTS_FILE) -> EnvironmentFile:
    """Parse a requirements file into its lines; their meaning is the installer's business."""
    lines = tuple(line for _, line in requirement_lines(text))
    return EnvironmentFile(kind="requirements", path=path, pip=lines)


# ---------------------------------------------------------------------------------------------------- YAML nodes


def compose(text: str, path: str) -> yaml.Node:
    """A document's nodes, bounded and counted. Raises EnvironmentFileError."""
    try:
        root = _load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}" if mark else "somewhere"
        if error.problem and "'\\t'" in error.problem:
            raise EnvironmentFileError(f"{path}: {place}: a tab; YAML is indented with spaces.") from None
        problem = (error.problem or error.context or "")[:200]
        raise EnvironmentFileError(f"{path}: {place}: not YAML: {problem}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise EnvironmentFileError(f"{path}: line {line}: not YAML: {error.reason}.") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets `"\UFFFFFFFF"` fail as it may
        raise EnvironmentFileError(f"{path}: not YAML: {error}.") from None
    except RecursionError:
        raise EnvironmentFileError(f"{path}: nested too deeply.") from None
    if root is None:
        raise EnvironmentFileError(f"{path}: line 1: the file is empty.")
    _count(root, path)
    return root


def _load(text: str) -> yaml.Node | None:
    """The document's nodes. A sync reads every file each time, and libyaml is ten times as fast as PyYAML's own parser.

    It recurses on the C stack, so it gets no text that could be nested deeply, and its errors say less: what it
    refuses, PyYAML refuses again.
    """
    if len(text) <= C_LIMIT and hasattr(yaml, "CSafeLoader"):
        with contextlib.suppress(yaml.YAMLError, ValueError):
            return yaml.compose(text, Loader=yaml.CSafeLoader)
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _count(root: yaml.Node, path: str) -> None:
    """Refuse a document that unfolds into more than NODE_LIMIT nodes or TEXT_LIMIT characters: aliases can do that in
    a few lines."""
    seen = size = 0
    pending: list[Any] = [root]
    while pending:
        node = pending.pop()
        seen += 1
        size += len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if seen > NODE_LIMIT or size > TEXT_LIMIT:
            raise _fault(path, root, "too large once its aliases are unfolded")
        if isinstance(node, yaml.MappingNode):
            pending.extend(part for pair in node.value for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)


def _fault(path: str, node: yaml.Node, message: str) -> EnvironmentFileError:
    return EnvironmentFileError(f"{path}: line {node.start_mark.line + 1}: {message[:500]}.")


def _scalar(node: yaml.Node, path: str, what: str) -> str:
    """A text as it is written, so that `python=3.10` and a bare `3.10` never become a float."""
    if not isinstance(node, yaml.ScalarNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
        raise _fault(path, node, f"{what}: expected a text, found {kind}")
    value = str(node.value).strip()
    if not value or not value.isprintable():
        raise _fault(path, node, f"{what}: empty, or with characters that can't be shown")
    return value


def _strings(node: yaml.Node, path: str, what: str) -> list[str]:
    if not isinstance(node, yaml.SequenceNode):
        raise _fault(path, node, f"{what}: expected a list (lines that start with `-`)")
    return [_scalar(item, path, what) for item in node.value]


def _sections(root: yaml.MappingNode, path: str) -> tuple[dict[str, yaml.Node], list[Problem]]:
    sections: dict[str, yaml.Node] = {}
    warnings: list[Problem] = []
    for key_node, value in root.value:
        key = _scalar(key_node, path, "a section's name")
        if key in sections:
            raise _fault(path, key_node, f"`{key}:` stands twice")
        if key not in _KEYS:
            if len(warnings) < WARNING_LIMIT:
                near = difflib.get_close_matches(key[:100], _KEYS, n=1, cutoff=0.75)
                hint = f"; did you mean `{near[0]}`?" if near else ""
                place = f"line {key_node.start_mark.line + 1}"
                warnings.append(Problem(place, f"unknown section `{one_line(key[:100])}` is ignored{hint}"))
            continue
        if isinstance(value, yaml.ScalarNode) and value.tag == "tag:yaml.org,2002:null":
            if key == "dependencies":
                raise _fault(path, key_node, "`dependencies:` is empty")
            continue
        sections[key] = value
    return sections, warnings


def _dependencies(node: yaml.Node, path: str) -> tuple[list[str], list[str]]:
    if not isinstance(node, yaml.SequenceNode):
        raise _fault(path, node, "dependencies: expected a list (lines that start with `-`)")
    specs: list[str] = []
    pip: list[str] | None = None
    for item in node.value:
        if isinstance(item, yaml.MappingNode):
            for key_node, value in item.value:
                key = _scalar(key_node, path, "dependencies")
                if key != "pip":
                    raise _fault(path, key_node, f"dependencies: `{key}:` is not supported, only `pip:`")
                if pip is not None:
                    raise _fault(path, key_node, "`pip:` stands twice; put all its lines into one list")
                pip = _strings(value, path, "pip")
            continue
        spec = _scalar(item, path, "dependencies")
        if spec.startswith("-") or not _SPEC.match(spec):
            raise _fault(path, item, f"{spec!r} is not a conda match spec")
        specs.append(re.sub(r"\s+", " ", spec))
    if not specs and not pip:
        raise _fault(path, node, "`dependencies:` is empty")
    return specs, pip or []


def _variables(node: yaml.Node, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(node, yaml.MappingNode):
        raise _fault(path, node, "variables: expected `NAME: value` lines")
    for key_node, value in node.value:
        key = _scalar(key_node, path, "variables")
        if not _VARIABLE.match(key):
            raise _fault(path, key_node, f"variables: {key!r} is not a variable's name")
        if not isinstance(value, yaml.ScalarNode) or re.search(r"[\0\ud800-\udfff]", value.value):
            raise _fault(path, value, f"variables: {key}: expected a text")
        yield key, str(value.value)
