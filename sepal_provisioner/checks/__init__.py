"""What an author is told before a pull request: a module for each matter, all with the same function.

To add a check, write a module with `check(subject)`, list it in CHECKS, and give each code that it uses a rule in
`finding.RULES` and a row in docs/check.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from . import catalog_entry, environment_file, file_names, logo, notebooks, solving, specs
from .finding import RULES, Finding, Level, finding
from .subject import Subject

__all__ = ["CHECKS", "RULES", "Finding", "Level", "Subject", "run_checks"]

CHECKS: Mapping[str, Callable[[Subject], Iterable[Finding]]] = MappingProxyType(
    {
        "catalog": catalog_entry.check,
        "environment file": environment_file.check,
        "specs": specs.check,
        "notebooks": notebooks.check,
        "logo": logo.check,
        "file names": file_names.check,
        "solve": solving.check,
    }
)


def run_checks(subject: Subject, *, solve: bool = True) -> Iterator[Finding]:
    """Every finding, check by check. A check that crashes is a finding too: the others go on."""
    for name, check in CHECKS.items():
        if name == "solve" and not solve:
            continue
        try:
            yield from check(subject)
        except Exception as error:  # noqa: BLE001 - the one edge of the checks; a crash must not hide what others found
            yield finding("check-failed", f"The check of the {name} crashed: {type(error).__name__}: {error}")
