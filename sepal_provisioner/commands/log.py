"""`jupyter sepal log`."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

from traitlets import Bool

from .. import locks
from ..errors import SepalError, SettingsError, UnknownKernelError
from ..files import human_time
from ..index import Kernel
from ..progress import read_progress
from ..store import Environment, State, Store, Stores
from .command import SepalCommand

SHOWN = 20_000_000  # characters
LOOK_EVERY = 0.2  # seconds
BEGINS_WITHIN = 15  # seconds for which we wait for a build to begin
CLOCK_STEP = 0.05  # seconds: a file's time may lag behind the clock by this much
TAKEN_OVER_WITHIN = 3  # seconds in which whoever waits for a build that was killed starts it again


class LogCommand(SepalCommand):
    """Show the log of a kernel's running or last build."""

    name = "jupyter-sepal-log"
    verb = "log"
    summary = "Show the log of a kernel's last build, or follow it."
    description = """Show the log of a kernel's running or last build. It begins with the command that repeats the
    build by hand and holds the whole output of every step. -f follows a build until it ends and ends like it: with 0,
    or with the exit code of its failure. Interrupting it leaves the build alone.
    """
    examples = dedent(
        """\
        jupyter sepal log -f venv-gwb
        jupyter sepal log venv-gwb --json | jq -r .path"""
    )

    follow = Bool(False, help="Follow the build until it ends.").tag(config=True)
    flags = {
        **SepalCommand.flags,
        ("f", "follow"): ({"LogCommand": {"follow": True}}, "Follow the build until it ends, and end like it."),  # type: ignore[dict-item]  # several names
    }

    def run(self) -> int:
        if len(self.extra_args) != 1:
            raise SettingsError("Name one kernel: jupyter sepal log venv-gwb")
        stores = self.stores()
        _, kernel = stores.find(self.extra_args[0])
        begun = self._wait_for(stores, kernel) if self.follow else False
        if begun:
            store = stores.observe(kernel).store
            follow(store, kernel, (lambda text: None) if self.json else _write)
        environment = stores.observe(kernel)
        if not begun or self.json:
            self._show(environment, kernel)
        if not self.follow:
            return 0
        failure = None if environment.ready and not begun else _failure(environment)
        if failure and not self.json:
            self.say(f"{kernel.name}: failed: [{failure.code}] {failure.message}")
        return failure.exit_code if failure else 0

    def _wait_for(self, stores: Stores, kernel: Kernel) -> bool:
        """Whether a build runs, or begins in the next seconds."""
        lock = stores.observe(kernel).store.beside(kernel.name, kernel.fingerprint, "lock")
        if locks.held(lock):
            return True
        self.say(f"{kernel.name}: nothing is being built now; waiting {human_time(BEGINS_WITHIN)} for a build to begin")
        deadline = time.monotonic() + BEGINS_WITHIN
        while time.monotonic() < deadline:
            time.sleep(LOOK_EVERY)
            if locks.held(lock):
                return True
        return False

    def _show(self, environment: Environment, kernel: Kernel) -> None:
        path = log_path(environment, kernel.name, kernel.fingerprint)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")[-SHOWN:]
        except OSError:
            raise UnknownKernelError(
                f"{kernel.name} has no log: it was never built. Build it: jupyter sepal build {kernel.name}"
            ) from None
        if self.json:
            self.print_json({"name": kernel.name, "state": environment.state.value, "path": str(path), "text": text})
        else:
            print(text, end="" if text.endswith("\n") else "\n")


def follow(store: Store, kernel: Kernel, write: Callable[[str], None]) -> None:
    """Hand on what a build writes into its log until it ends; a build that was killed may be taken over by another."""
    lock, path = (store.beside(kernel.name, kernel.fingerprint, what) for what in ("lock", "log"))
    tail = _Tail(path)
    free_since: float | None = None
    while True:
        building = locks.held(lock)  # looked at before the log is read, so that its last words are not missed
        progress = read_progress(store.beside(kernel.name, kernel.fingerprint, "progress.json"))
        tail.read(write, progress.started if progress else 0)
        if building:
            free_since = None
        elif progress is None or progress.ended:
            return
        elif free_since is None:
            free_since = time.monotonic()
        elif time.monotonic() - free_since > TAKEN_OVER_WITHIN:
            return
        time.sleep(LOOK_EVERY)


class _Tail:
    """A log that grows, and begins anew with the next build."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self, write: Callable[[str], None], since: float) -> None:
        """Hand on what is new. A log that is older than the build is the one before, which it is about to replace."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as stream:
            info = os.fstat(stream.fileno())
            if info.st_mtime < since - CLOCK_STEP:
                return
            if info.st_size < self._position:
                self._position = 0
            stream.seek(self._position)
            while data := stream.read(1 << 16):
                self._position += len(data)
                write(self._decoder.decode(data))


def _failure(environment: Environment) -> SepalError | None:
    """What the build that was followed ended with, or the last one, where none began."""
    progress = environment.progress
    return progress.failure() if progress and progress.ended else environment.failure


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def log_path(environment: Environment, name: str, fingerprint: str) -> Path:
    """The log that belongs to the state which is shown: of a ready prefix its own, else the last attempt's."""
    attempt = environment.store.beside(name, fingerprint, "log")
    if environment.state is State.READY and environment.ready and not attempt.is_file():
        return environment.ready.marker.with_name("build.log")
    return attempt
