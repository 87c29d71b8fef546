"""Asking for a build and waiting for it: however many ask, there is one build, and all follow its progress."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import audit, locks, process
from .environ import build_environment
from .errors import BuildError, BusyError, CancelledBuildError, ChangedError, KilledError, PolicyError, SepalError
from .files import human_time, make_folder, store_error, write_new
from .generation import Generation
from .index import Kernel
from .policy import check_pinned
from .progress import Progress, read_progress
from .request import BUILDER, Request, command
from .settings import Sepal
from .store import Store, Stores, make_store

LOOK_EVERY = 0.2  # seconds
CANCEL_SECONDS = 60  # that a build gets to stop its commands and clean up
_OUR_INTERPRETERS = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
TAKEOVERS = 2  # how often a build that was killed is started again by those who wait


@dataclass
class Build:
    """One wait for one environment. `step` looks once and never blocks: it suits a loop of any kind."""

    store: Store
    kernel: Kernel
    request: Path
    after: int | None  # a forced build: only a prefix with a higher number is what we wait for
    env: Mapping[str, str]  # of the process that builds
    niceness: int = 0
    began: float = field(default_factory=time.time)
    _child: process.Process[bytes] | None = None
    _started: int = 0

    def step(self) -> Generation | None:
        """The prefix when it is ready, None while it is being built. Raises what the build failed with."""
        if ready := self._ready():
            return ready
        if self._child is not None and self._child.poll() is None:
            return None
        if self._child is not None and self._child.returncode == BusyError.exit_code:  # somebody else was faster
            self._child = None
            self._started -= 1
        if locks.held(self._path("lock")):
            return None
        if ready := self._ready():  # published between the two looks
            return ready
        progress = self.progress
        if progress is not None and progress.ended >= self.began and (failure := progress.failure()):
            raise failure
        if self._child is None or (self._started <= TAKEOVERS and progress is not None and not progress.ended):
            self._start()
            return None
        raise self._silent(progress)

    def when_free(self, call: Callable[[], object]) -> None:
        """Call back, once, from another thread, when nobody holds the build's lock; a step then tells what it gave."""

        def wait() -> None:
            with contextlib.suppress(OSError):
                locks.wait_until_free(self._path("lock"))
            call()

        threading.Thread(target=wait, name="build's end", daemon=True).start()

    @property
    def progress(self) -> Progress | None:
        """How far the build is, whoever runs it."""
        progress = read_progress(self._path("progress.json"))
        return progress if progress is not None and (not progress.ended or progress.ended >= self.began) else None

    @property
    def ours(self) -> bool:
        """Whether this process started the build, and not somebody else."""
        return self._child is not None

    @property
    def log(self) -> Path:
        """Where the build's log is."""
        return self._path("log")

    def wait(self, on_progress: Callable[[Progress], None] = lambda progress: None) -> Generation:
        """Block until it is ready. Raises what the build failed with."""
        seen = 0.0
        while (generation := self.step()) is None:
            progress = self.progress
            if progress is not None and progress.updated != seen:
                seen = progress.updated
                on_progress(progress)
            time.sleep(LOOK_EVERY)
        return generation

    def _ready(self) -> Generation | None:
        ready = self.store.observe(self.kernel.name, self.kernel.fingerprint).ready
        if self.after is None:
            return ready
        # One that was rolled back to has another fingerprint, or an older number.
        return ready if ready and ready.fingerprint == self.kernel.fingerprint and ready.number > self.after else None

    def _start(self) -> None:
        self._started += 1
        try:
            make_folder(self.log.parent)
            with contextlib.suppress(FileExistsError):
                write_new(self.log)
            self._child = process.spawn(command(self.request), env=self.env, output=self.log, niceness=self.niceness)
        except OSError as error:
            raise store_error(error, self.log) from error

    def _silent(self, progress: Progress | None) -> SepalError:
        try:
            tail = self.log.read_text(errors="replace")[-4000:]
        except OSError:
            tail = ""
        if progress is not None and not progress.ended:
            return KilledError(
                f"The build of {self.kernel.name} was killed {self._started} times while it was at "
                f"“{progress.phase.value}”, most often for want of memory. See `jupyter sepal log {self.kernel.name}`.",
                detail=tail,
            )
        return BuildError(f"The build of {self.kernel.name} ended before it began.", detail=tail)

    def _path(self, what: str) -> Path:
        return self.store.beside(self.kernel.name, self.kernel.fingerprint, what)


def request_build(
    stores: Stores, name: str, settings: Sepal, *, force: bool = False, remember_failures: bool = False
) -> Build | Generation:
    """The ready prefix of a kernel, or a `Build` to wait for, joined when somebody builds it already.

    `force` makes a new prefix although one is ready. With `remember_failures` a build that failed less than
    `retry_after` seconds ago is not tried again. Raises UnknownKernelError, StoreReadOnlyError, or that failure.
    """
    source, kernel = stores.find(name)
    environment = stores.observe(kernel)
    if environment.ready and not force:
        return environment.ready
    if remember_failures and environment.failure:
        _raise_if_recent(environment.failure, environment.progress, settings, kernel)
    store = stores.to_build_in(kernel.name, settings.contact)
    make_store(settings)
    try:
        check_pinned(kernel, settings)
    except PolicyError as error:
        facts = {"kernel": kernel.name, "commit": kernel.commit, "repository": kernel.repository}
        audit.note(store.root, "build", error.code, message=error.message, **facts)
        raise
    request = Request(
        kernel=kernel,
        checkout=source.apps / kernel.checkout,
        store=store.root,
        settings=settings,
        force=force,
    )
    numbers = [g.number for g in store.complete(kernel.name) if g.fingerprint == kernel.fingerprint]
    # Our own interpreter needs more than the commands of the build do, and hands no more on.
    env = build_environment(os.environ, (*settings.build_variables, *_OUR_INTERPRETERS))
    after = max(numbers, default=0) if force else None
    return Build(store, kernel, request.write(), after, env, settings.build_niceness)


def _raise_if_recent(failure: SepalError, progress: Progress | None, settings: Sepal, kernel: Kernel) -> None:
    if isinstance(failure, (ChangedError, CancelledBuildError)) or progress is None:
        return
    left = progress.retry_at(settings.retry_after) - time.time()
    if left > 0:
        ago = human_time(time.time() - (progress.ended or progress.updated))
        times = f", for the {progress.attempt}th time in a row" if progress.attempt > 3 else ""
        failure.message += (
            f" This is what the build {ago} ago ended with{times}; it is tried again in {human_time(left)}, or now by "
            f"`jupyter sepal build {kernel.name} --force`."
        )
        raise failure


def cancel_build(store: Store, kernel: Kernel) -> bool:
    """Stop the build that holds the environment's lock and remove what it made; False when there is none.

    Raises BuildError when it runs on another machine or belongs to another user, and BusyError when it does not end.
    """
    lock = store.beside(kernel.name, kernel.fingerprint, "lock")
    progress = read_progress(store.beside(kernel.name, kernel.fingerprint, "progress.json"))
    if not locks.held(lock) or progress is None or progress.ended:
        return False
    where = f"{progress.user} on {progress.host}, process {progress.pid}"
    if progress.host != socket.gethostname():
        raise BuildError(f"The build of {kernel.name} runs on another machine ({where}). Cancel it there.")
    try:
        process.end(progress.pid, BUILDER)
    except PermissionError:
        raise BuildError(f"The build of {kernel.name} is not yours ({where}). Ask that user to cancel it.") from None
    with locks.exclusive(
        lock, timeout=CANCEL_SECONDS, waiting_for=f"The build of {kernel.name} ({where}) does not end"
    ):
        store.remove_leftovers(kernel.name, kernel.fingerprint)
    return True
