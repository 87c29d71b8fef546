"""Notebooks of a repository: whether each opens with the repository's own kernel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..files import decode_json, human_size, read_bounded, resolve_inside
from .finding import Finding, finding
from .subject import Subject

NOTEBOOKS_LIMIT = 500
BYTES_LIMIT = 20_000_000
SHOWN = 20  # findings of one kind that are listed one by one


def check(subject: Subject) -> Iterator[Finding]:
    """Every notebook that git knows, or would add."""
    notebooks = [path for path in subject.files if path.endswith(".ipynb") and "/." not in f"/{path}"]
    found = [result for path in notebooks[:NOTEBOOKS_LIMIT] for result in _check(subject, path)]
    yield from found[:SHOWN]
    if len(found) > SHOWN:
        yield finding("notebook-kernel", f"{len(found) - SHOWN} more notebooks are like these.")
    if len(notebooks) > NOTEBOOKS_LIMIT:
        yield finding("search-cut-off", f"Only the first {NOTEBOOKS_LIMIT} of {len(notebooks)} notebooks were read.")


def _check(subject: Subject, path: str) -> Iterator[Finding]:
    try:
        target = resolve_inside(subject.root, path)
        if not target.is_file():
            return
        if (size := target.stat().st_size) > BYTES_LIMIT:
            yield finding("notebook-not-read", f"It is too large to be looked at ({human_size(size)}).", path)
            return
        data = read_bounded(target, BYTES_LIMIT)
        document = decode_json(data)
    except (OSError, ValueError) as error:
        yield finding("notebook-unreadable", f"It can't be read: {error}.", path)
        return
    spec = _kernelspec(document)
    if spec is None:
        return
    name = str(spec.get("name", ""))
    language = str(spec.get("language") or "python").lower()
    if language != "python" or name.lower() == subject.kernel_name:
        return
    said = f"names the kernel {name!r}" if name else "names no kernel"
    reason = " (which is only on your machine)" if name.lower().startswith("test-") else ""
    message = f"It {said}{reason}, not {subject.kernel_name}: whoever opens it gets another environment."
    yield finding("notebook-kernel", message, path, _line_of(data, name))


def _kernelspec(document: Any) -> dict[str, Any] | None:
    """The kernelspec of a notebook; None for one that was never opened with a kernel."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    spec = metadata.get("kernelspec") if isinstance(metadata, dict) else None
    return spec if isinstance(spec, dict) else None


def _line_of(data: bytes, name: str) -> int:
    """The line of the kernel's name, which follows `"kernelspec"`, as Jupyter writes it."""
    start = data.rfind(b'"kernelspec"')
    at = re.compile(rb'"name"\s*:\s*' + re.escape(json.dumps(name).encode())).search(data, max(start, 0))
    return data.count(b"\n", 0, at.start()) + 1 if at else 0
