"""File names that JupyterLab, or another system's git, can't use."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding, finding
from .subject import Subject

SHOWN = 20


def check(subject: Subject) -> Iterator[Finding]:
    """Every file that git knows, or would add."""
    found = [(path, reason) for path in subject.files if (reason := _reason(path))]
    first: dict[str, str] = {}
    for path in subject.files:
        if (other := first.setdefault(path.lower(), path)) != path:
            found.append((path, f"differs from {other} in upper and lower case only, which other systems can't keep"))
    yield from (finding("file-name", f"The name {reason}.", path) for path, reason in found[:SHOWN])
    if len(found) > SHOWN:
        yield finding("file-name", f"{len(found) - SHOWN} more file names can't be used.")
    if subject.more_files:
        yield finding("search-cut-off", f"Only the first {len(subject.files)} files were looked at.")


def _reason(path: str) -> str:
    if "\ufffd" in path or any("\ud800" <= letter <= "\udfff" for letter in path):
        return "is not UTF-8, and Jupyter can't open it"
    if any(not letter.isprintable() for letter in path):
        return "holds a character that can't be shown"
    if "\\" in path:
        return "holds a backslash"
    if ":" in path:
        return "holds a colon, which JupyterLab takes for the name of a drive"
    if any(part != part.strip() for part in path.split("/")):
        return "begins or ends with a blank"
    return ""
