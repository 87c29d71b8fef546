"""What a check says: a finding with a stable code, and the page of all codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from ..catalog import one_line

MESSAGE_LIMIT = 2_000  # characters
DETAIL_LIMIT = 20_000


class Level(str, Enum):
    """How bad it is. Only an error fails a check, unless it is strict."""

    ERROR = "error"  # it can't be built, listed or launched
    WARNING = "warning"  # it is built, and later surprises somebody
    NOTICE = "notice"  # good to know


@dataclass(frozen=True)
class Rule:
    """What is true of every finding of a code: its level, and what to do."""

    level: Level
    remedy: str


@dataclass(frozen=True)
class Finding:
    """One thing that an author should know. `file` is relative to the repository, `line` 0 where there is none.

    `detail` holds a tool's own words, such as a solver's explanation.
    """

    level: Level
    code: str
    message: str
    file: str = ""
    line: int = 0
    remedy: str = ""
    detail: str = ""


_E, _W, _N = Level.ERROR, Level.WARNING, Level.NOTICE

# Scripts refer to the codes: one may be added, none changes its meaning. docs/check.md says why each is there.
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "check-failed": Rule(_E, "Report it, with the message, to whoever maintains sepal_provisioner."),
        # the catalog
        "catalog-unreadable": Rule(_W, "Correct the catalog or reach it; --catalog names another one."),
        "catalog-entry": Rule(_E, "Correct the entry in the catalog."),
        "not-in-catalog": Rule(_N, "Add the entry below to the catalog's `apps`, with a label that people understand."),
        "catalog-not-a-kernel": Rule(_N, 'Write "endpoint": "jupyter" if this is to be a kernel.'),
        "catalog-skipped": Rule(_N, "Remove `skip` from the entry when the kernel is to be listed."),
        "repository-name": Rule(
            _E, "Rename the repository: letters, digits, `.`, `_` and `-`, a letter or digit first."
        ),
        # the environment file
        "no-environment-file": Rule(_E, "Add a sepal_environment.yml to the root of the repository."),
        "environment-file": Rule(_E, "Correct the line; the file is a conda environment file."),
        "environment-file-ignored": Rule(_W, "Correct the section's name, or remove it."),
        "not-allowed": Rule(_E, "Use what the site allows, or ask its administrator."),
        "no-python-project": Rule(_E, "Add a pyproject.toml, correct the path, or remove the line."),
        "prefix-present": Rule(_N, "Remove the line: it names a folder of one machine."),
        "environment-name": Rule(_N, "Nothing has to be done; notebooks name the kernel, not the environment."),
        "python-unpinned": Rule(_W, "Pin the minor version: python=3.12"),
        "defaults-channel": Rule(_W, "Remove `defaults` from `channels:`."),
        "ipykernel-old": Rule(_W, "Remove the line; ipykernel is added when it is not listed."),
        "pip-wheel-over-conda": Rule(_W, "Move it to the conda dependencies, so that all share one PROJ and GDAL."),
        "pip-gdal-source": Rule(_W, "Use a sepal_environment.yml and take gdal from conda-forge."),
        # the lock
        "lock-unreadable": Rule(_E, "Make it anew with `jupyter sepal lock`, or remove it."),
        "lock-platform": Rule(_E, "Make the lock on the platform that builds, or ship none."),
        "lock-incomplete": Rule(_W, "Make the lock anew: remove it, build, then `jupyter sepal lock`."),
        "lock-unused": Rule(_W, "Remove it, or describe the environment in a sepal_environment.yml."),
        # the rest of the repository
        "notebook-kernel": Rule(_W, "Open the notebook with the kernel, save it, and commit it."),
        "notebook-unreadable": Rule(_W, "Open and save it with JupyterLab, or remove it."),
        "notebook-not-read": Rule(_N, "Remove its output before you commit it."),
        "logo-unusable": Rule(_W, "Save it as a PNG image, or as an SVG without scripts, of at most 300 kB."),
        "logo-size": Rule(_N, "Save it with 64 by 64 pixels."),
        "file-name": Rule(_W, "Rename the file: git mv OLD NEW"),
        "search-cut-off": Rule(_N, "Keep data elsewhere than in the repository."),
        # the dry run
        "solved": Rule(_N, "Nothing has to be done."),
        "not-solved": Rule(_W, "Install what is missing, or say --no-solve."),
        "unsolvable": Rule(_E, "Relax one of the specs that the explanation names."),
        "download-failed": Rule(_E, "Check the channel's name and the network, or say --no-solve."),
        "pip-failed": Rule(_E, "Correct the pip section; the installer's own words say which line."),
    }
)


def finding(
    code: str,
    message: str,
    file: str = "",
    line: int = 0,
    *,
    remedy: str = "",
    detail: str = "",
    level: Level | None = None,
) -> Finding:
    """A finding under its code's rule, its words without credentials and control characters."""
    rule = RULES[code]
    shown = one_line(message)[:MESSAGE_LIMIT]
    words = "\n".join(one_line(text) for text in detail[:DETAIL_LIMIT].splitlines())
    return Finding(level or rule.level, code, shown, one_line(file), line, remedy or rule.remedy, words)
