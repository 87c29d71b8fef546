"""One file per build that says how far it is: written by the builder, read by everybody who waits."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from .errors import BuildError, SepalError, every_error
from .files import human_size, is_number, read_json, write_json
from .users import current_user

PROGRESS_LIMIT = 1_000_000  # bytes
DETAIL_LIMIT = 20_000  # characters of a tool's own words
WRITE_EVERY = 0.2  # seconds
KILLED_AT_ONCE = 2
LONGEST_WAIT = 86_400  # seconds


class Phase(str, Enum):
    """The steps of a build, in order. The value is what people read."""

    PREPARE = "Preparing"
    SOLVE = "Solving"
    DOWNLOAD = "Downloading"
    LINK = "Installing"
    PIP = "Installing pip packages"
    COMPILE = "Compiling"
    VERIFY = "Verifying"
    DONE = "Done"


# Where each phase begins on a bar from 0 to 1. Measured shares differ between environments; a bar that never runs
# backwards matters more than one that is exact.
_BEGINS = {
    Phase.PREPARE: 0.0,
    Phase.SOLVE: 0.01,
    Phase.DOWNLOAD: 0.06,
    Phase.LINK: 0.45,
    Phase.PIP: 0.55,
    Phase.COMPILE: 0.7,
    Phase.VERIFY: 0.95,
    Phase.DONE: 1.0,
}


@dataclass(frozen=True)
class Progress:
    """A moment of one build. Times are seconds since the epoch, sizes bytes; a `total` of 0 is unknown.

    `ended` is 0 while it runs; then `error` is the code of what went wrong, or empty. `attempt` counts the builds in a
    row of this fingerprint that failed, this one included.
    """

    name: str
    fingerprint: str
    phase: Phase = Phase.PREPARE
    done: int = 0
    total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    item: str = ""
    started: float = 0
    updated: float = 0
    ended: float = 0
    previous: float = 0  # how long the last successful build of this kernel took
    reached: float = 0  # the fraction before the newest change, which it never falls below
    user: str = ""
    host: str = ""
    pid: int = 0
    attempt: int = 1
    error: str = ""
    message: str = ""
    detail: str = ""
    durations: dict[str, float] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """How far it is, from 0 to 1; within one build it never decreases."""
        begin = _BEGINS[self.phase]
        later = [start for start in _BEGINS.values() if start > begin]
        within = self.done / self.total if self.total else 0
        if self.bytes_total:
            within = self.bytes_done / self.bytes_total
        now = begin + (min(later, default=begin) - begin) * min(max(within, 0), 1)
        return min(max(self.reached, now), 1)

    def retry_at(self, retry_after: float) -> float:
        """When a launch may try again what failed, in seconds since the epoch: each failure in a row doubles the wait,
        up to a day. 0 when it may at once: a build that was killed is tried twice more without waiting."""
        if not self.ended and self.attempt <= KILLED_AT_ONCE:
            return 0
        wait = retry_after * 2.0 ** (min(self.attempt, 20) - 1)
        return (self.ended or self.updated) + min(wait, max(LONGEST_WAIT, retry_after))

    def sentence(self) -> str:
        """`Downloading 12 of 48 packages, 31.0 MB of 120.4 MB: libgdal`."""
        text = self.phase.value
        if self.total:
            text += f" {self.done} of {self.total} {'files' if self.phase is Phase.COMPILE else 'packages'}"
        if self.bytes_total:
            text += f", {human_size(self.bytes_done)} of {human_size(self.bytes_total)}"
        elif self.bytes_done:
            text += f", {human_size(self.bytes_done)}"
        return f"{text}: {self.item}" if self.item else text

    def failure(self) -> SepalError | None:
        """The recorded error as an error of its own class, or None."""
        if not self.error:
            return None
        return every_error().get(self.error, BuildError)(self.message, detail=self.detail)

    @classmethod
    def from_json(cls, document: Any) -> Progress:
        """What the builder wrote. Raises ValueError for anything else."""
        if not isinstance(document, dict):
            raise ValueError("expected an object")
        values: dict[str, Any] = {}
        for name, kind in cls.__annotations__.items():
            value = document.get(name)
            if name == "phase":
                values[name] = Phase(value)
            elif value is None:
                continue
            elif kind in ("int", "float") and is_number(value):
                values[name] = value
            elif kind == "str" and isinstance(value, str):
                values[name] = value[: DETAIL_LIMIT * 2]
            elif name == "durations" and isinstance(value, dict):
                values[name] = {key: float(number) for key, number in value.items() if is_number(number)}
            else:
                raise ValueError(f"{name}: unexpected {type(value).__name__}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from None


def read_progress(path: Path) -> Progress | None:
    """The last progress of a build, or None when there is none that can be read."""
    try:
        return Progress.from_json(read_json(path, PROGRESS_LIMIT))
    except (OSError, ValueError):
        return None


class Reporter:
    """Writes a build's progress, a few times a second at most. Engines call it from any thread."""

    def __init__(self, path: Path, name: str, fingerprint: str, previous: float = 0, attempt: int = 1) -> None:
        now = time.time()
        self._path = path
        self._lock = threading.Lock()
        self._written = 0.0
        self._phase_began = now
        self._progress = Progress(
            name,
            fingerprint,
            started=now,
            updated=now,
            previous=previous,
            attempt=attempt,
            user=current_user(),
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    @property
    def progress(self) -> Progress:
        """The newest state, written or not."""
        return self._progress

    def begin(self) -> None:
        """Write the first state; raises StoreError, for then nothing else can be written either."""
        write_json(self._path, _plain(self._progress))

    def phase(self, phase: Phase, total: int = 0, item: str = "") -> None:
        """Enter a phase, of `total` steps where that is known. Going back is ignored."""
        with self._lock:
            if list(Phase).index(phase) < list(Phase).index(self._progress.phase):
                return
            self._close_phase()
            self._progress = replace(
                self._progress,
                phase=phase,
                done=0,
                total=total,
                bytes_done=0,
                bytes_total=0,
                item=item,
                reached=self._progress.fraction,
            )
            self._write(force=True)

    def update(self, **changes: Any) -> None:
        """Change `done`, `total`, `bytes_done`, `bytes_total` or `item`; `done` and `bytes_done` only grow."""
        with self._lock:
            for name in ("done", "bytes_done"):
                if name in changes:
                    changes[name] = max(changes[name], getattr(self._progress, name))
            self._progress = replace(self._progress, **changes, reached=self._progress.fraction)
            self._write()

    def end(self, error: SepalError | None = None) -> None:
        """Write the last state."""
        with self._lock:
            self._close_phase()
            self._progress = replace(
                self._progress,
                ended=time.time(),
                phase=self._progress.phase if error else Phase.DONE,
                error=error.code if error else "",
                message=error.message if error else "",
                detail=error.detail[-DETAIL_LIMIT:] if error else "",
            )
            self._write(force=True)

    def durations(self) -> dict[str, float]:
        """Seconds that each phase took so far, the running one included."""
        name = self._progress.phase.name.lower()
        return {**self._progress.durations, name: round(time.time() - self._phase_began, 3)}

    def _close_phase(self) -> None:
        self._progress = replace(self._progress, durations=self.durations())
        self._phase_began = time.time()

    def _write(self, force: bool = False) -> None:
        now = time.time()
        if force or now - self._written >= WRITE_EVERY:
            self._written = now
            self._progress = replace(self._progress, updated=now)
            write_json(self._path, _plain(self._progress))


def _plain(progress: Progress) -> dict[str, Any]:
    return {**asdict(progress), "phase": progress.phase.value}


OnProgress = Callable[[Progress], None]
