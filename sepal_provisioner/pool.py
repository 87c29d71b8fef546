"""Many builds side by side: what `jupyter sepal build --all` waits for, and what `jupyter sepal watch` keeps going."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from .builds import Build, request_build
from .errors import SepalError
from .files import human_size
from .generation import Generation
from .progress import Progress
from .settings import Sepal
from .store import Stores


@dataclass(frozen=True)
class Result:
    """How one build ended: with a prefix or with an error. `built` is False for what was ready already."""

    name: str
    generation: Generation | None = None
    error: SepalError | None = None
    built: bool = False
    seconds: float = 0

    @property
    def size(self) -> int:
        """The prefix's bytes on disk; 0 where there is none, or its record can't be read."""
        with contextlib.suppress(OSError, ValueError):
            return self.generation.record().size if self.generation else 0
        return 0


class Step(str, Enum):
    """Where one of the builds that were asked for stands. The value is what people read."""

    RUNNING = "building"
    FAILED = "failed"
    WAITING = "waiting"
    READY = "ready"


@dataclass(frozen=True)
class Row:
    """One of the builds as it is now, for whoever draws them; `seconds` since it began, or how long it took."""

    name: str
    step: Step
    progress: Progress | None = None
    seconds: float = 0
    result: Result | None = None

    @property
    def fraction(self) -> float:
        """How far it is, from 0 to 1."""
        return 1.0 if self.step is Step.READY else self.progress.fraction if self.progress else 0.0

    def sentence(self) -> str:
        """What it is doing, or how it ended."""
        if self.result and self.result.error:
            return f"{self.result.error.code}: {self.result.error.message}"
        if self.result:
            return human_size(self.result.size) if self.result.built else "was ready"
        return self.progress.sentence() if self.progress else ""


class Pool:
    """Up to `jobs` builds at a time; `step` looks once and never blocks.

    The builds are processes of their own: a pool that is dropped leaves them to finish.
    """

    def __init__(
        self, stores: Stores, settings: Sepal, jobs: int, *, force: bool = False, remember_failures: bool = False
    ) -> None:
        self._stores, self._settings, self._jobs = stores, settings, jobs
        self._force, self._remember = force, remember_failures
        self._waiting: list[str] = []
        self._running: dict[str, Build] = {}

    def add(self, name: str) -> None:
        """Ask for a kernel's environment; one that is waited for already is not asked for twice."""
        if name not in self._waiting and name not in self._running:
            self._waiting.append(name)

    @property
    def running(self) -> tuple[str, ...]:
        """The kernels that are being built now."""
        return tuple(self._running)

    @property
    def busy(self) -> bool:
        """Whether there is anything left to wait for."""
        return bool(self._waiting or self._running)

    def step(self) -> list[Result]:
        """Start what there is room for, look at what runs, and return what ended since the last look."""
        ended = []
        while self._waiting and len(self._running) < self._jobs:
            if result := self._begin(self._waiting.pop(0)):
                ended.append(result)
        for name, build in list(self._running.items()):
            if result := self._look(name, build):
                del self._running[name]
                ended.append(result)
        return ended

    def rows(self, done: Iterable[Result] = ()) -> list[Row]:
        """What runs, what has failed of those that are `done`, what waits, and what is ready, in this order."""
        now = time.time()
        ended = [Row(r.name, Step.FAILED if r.error else Step.READY, None, r.seconds, r) for r in done]
        running = [Row(name, Step.RUNNING, b.progress, now - b.began) for name, b in self._running.items()]
        waiting = [Row(name, Step.WAITING) for name in self._waiting]
        return sorted((*running, *waiting, *ended), key=lambda row: list(Step).index(row.step))

    def _begin(self, name: str) -> Result | None:
        try:
            found = request_build(
                self._stores, name, self._settings, force=self._force, remember_failures=self._remember
            )
        except SepalError as error:
            return Result(name, error=error)
        if isinstance(found, Generation):
            return Result(name, found)
        self._running[name] = found
        return None

    def _look(self, name: str, build: Build) -> Result | None:
        try:
            generation = build.step()
        except SepalError as error:
            return Result(name, error=error, built=True, seconds=time.time() - build.began)
        if generation is None:
            return None
        return Result(name, generation, built=True, seconds=time.time() - build.began)
