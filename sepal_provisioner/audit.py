"""One line of JSON for everything that changed a store, or was refused: who, when, what, from which commit."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .files import file_mode, read_bounded
from .users import current_user

NAME = "audit.jsonl"
READ_LIMIT = 100_000_000  # bytes


def note(root: Path, action: str, result: str, **facts: Any) -> None:
    """Append a line to a store's audit file. Where it can't be written, nothing else fails for it.

    `action` is build, remove, rollback or launch; `result` is `ok` or an error's code. `facts` must be free of
    credentials.
    """
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "user": current_user(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "action": action,
        "result": result,
        **{name: value for name, value in facts.items() if value not in ("", None)},
    }
    data = json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(root / NAME, flags, 0o600)
        try:
            if os.fstat(descriptor).st_size == 0:
                os.fchmod(descriptor, file_mode(root))
            os.write(descriptor, data)  # one write, so that lines of several processes never mix
        finally:
            os.close(descriptor)


def lines(root: Path) -> Iterator[dict[str, Any]]:
    """What was noted, oldest first; a line that a loss of power cut short is left out."""
    try:
        data = read_bounded(root / NAME, READ_LIMIT)
    except (OSError, ValueError):
        return
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            document = json.loads(line)
            if isinstance(document, dict):
                yield document
