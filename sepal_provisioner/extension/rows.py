"""The dashboard's rows, rendered once: a table of hundreds is the same from one look to the next but for a few."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ..files import human_size
from .languages import words

if TYPE_CHECKING:
    from jinja2 import Template

KNOWN_LIMIT = 20_000  # rows, of about a kilobyte each

Key = tuple[str, str, bool, bool]


class Rows:
    """What was rendered, for as long as what it shows is the same. Threads of the server share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Key, tuple[dict[str, Any], str]] = {}

    def render(
        self, template: Template, kernels: Iterable[dict[str, Any]], language: str, *, execute: bool, write: bool
    ) -> Markup:
        """The rows of kernels (see `kernel_view`), with the buttons that somebody may press."""
        texts = words(language)
        rows = []
        for kernel in kernels:
            key = (kernel["name"], language, execute, write)
            known = self._known.get(key)
            if known is None or known[0] != kernel:
                html = template.render(
                    kernel=kernel,
                    may={"execute": execute, "write": write},
                    t=lambda key, **values: texts[key].format(**values),
                    human_size=human_size,
                    moment=moment,
                )
                known = (kernel, html)
                self._keep(key, known)
            rows.append(known[1])
        return Markup("".join(rows))  # noqa: S704 - each row was rendered, and escaped, by the template

    def _keep(self, key: Key, row: tuple[dict[str, Any], str]) -> None:
        with self._lock:
            if len(self._known) >= KNOWN_LIMIT:  # kernels that no catalog names any more
                self._known.clear()
            self._known[key] = row


def moment(seconds: float) -> dict[str, str]:
    """A time for machines and, without a script, for people."""
    try:
        when = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return {"machine": "", "text": "?"}
    return {"machine": when.isoformat(timespec="seconds"), "text": f"{when:%Y-%m-%d %H:%M}"}
