"""Findings as people, scripts and GitHub read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from ..checks import Finding, Level

DETAIL_LINES = 60  # of a tool's own words, for people

_COLOURS = {Level.ERROR: "31", Level.WARNING: "33", Level.NOTICE: "36"}
_WHOLE = "(the repository)"


def text(findings: Sequence[Finding], colours: bool = False) -> str:
    """Findings grouped by file, in order of their lines, and their count."""
    lines: list[str] = []
    for file in sorted({one.file for one in findings}):
        lines.append(_painted(file or _WHOLE, "1", colours))
        for one in sorted((f for f in findings if f.file == file), key=lambda f: f.line):
            level = _painted(one.level.value, _COLOURS[one.level], colours)
            where = f"line {one.line}: " if one.line else ""
            lines.append(f"  {where}{level}: {one.message} [{one.code}]")
            detail = one.detail.splitlines()
            lines += [f"      {line}" for line in detail[:DETAIL_LINES]]
            if len(detail) > DETAIL_LINES:
                lines.append(f"      … {len(detail) - DETAIL_LINES} more lines")
            if one.code != "solved":
                lines.append(f"    {one.remedy}")
        lines.append("")
    return "\n".join([*lines, summary(findings)])


def github(findings: Iterable[Finding]) -> str:
    """A workflow command for each finding, which GitHub shows beside the line of a pull request.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    """
    return "\n".join(_annotation(one) for one in findings)


def document(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings for scripts; `line` is null where there is none."""
    return [{**asdict(one), "level": one.level.value, "line": one.line or None} for one in findings]


def count(findings: Iterable[Finding], level: Level) -> int:
    """How many findings are of a level."""
    return sum(one.level is level for one in findings)


def summary(findings: Sequence[Finding]) -> str:
    """`2 errors, 1 warning, 0 notices`."""
    counted = [(count(findings, level), level.value) for level in Level]
    return ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for number, word in counted)


def _annotation(one: Finding) -> str:
    properties = {"file": one.file, "line": str(one.line) if one.line else "", "title": f"sepal: {one.code}"}
    shown = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value)
    words = [one.message, one.detail, "" if one.code == "solved" else one.remedy]
    return f"::{one.level.value} {shown}::{_data(chr(10).join(word for word in words if word))}"


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def _painted(value: str, colour: str, colours: bool) -> str:
    return f"\x1b[{colour}m{value}\x1b[0m" if colours else value
