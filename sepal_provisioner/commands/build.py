"""`jupyter sepal build`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

from traitlets import Bool, Integer

from ..builds import LOOK_EVERY, Build, request_build
from ..errors import BuildError, SepalError, SettingsError
from ..files import human_size, human_time
from ..generation import Generation
from ..progress import Progress
from .command import SepalCommand, error_document

OnProgress = Callable[[str, Progress], None]


@dataclass(frozen=True)
class Result:
    """How one build ended: with a prefix or with an error."""

    name: str
    generation: Generation | None = None
    error: SepalError | None = None
    built: bool = False
    seconds: float = 0


class BuildCommand(SepalCommand):
    """Build environments now, so that nobody waits for them later."""

    name = "jupyter-sepal-build"
    verb = "build"
    summary = "Build environments ahead of their first launch."
    description = """Build the environments of the kernels that are named, or of all. What is ready already is left
    alone; what somebody else is building is waited for.
    """
    examples = dedent(
        """\
        jupyter sepal build venv-gwb
        jupyter sepal build --all --jobs=4
        jupyter sepal build venv-gwb --force    # a new prefix beside the old one, which running kernels keep"""
    )

    all = Bool(False, help="Build every kernel of the catalogs.").tag(config=True)
    force = Bool(False, help="Build a new prefix although one is ready, or the last build failed.").tag(config=True)
    jobs = Integer(1, min=1, max=64, help="How many builds run at the same time.").tag(config=True)

    aliases = {**SepalCommand.aliases, "jobs": "BuildCommand.jobs"}
    flags = {
        **SepalCommand.flags,
        "all": ({"BuildCommand": {"all": True}}, "Build every kernel of the catalogs."),
        "force": (
            {"BuildCommand": {"force": True}},
            "Build a new prefix although one is ready, or the last build failed.",
        ),
    }

    def run(self) -> int:
        names = self._names()
        with display(self) as on_progress:
            results = list(self._build(names, on_progress))
        if self.json:
            self.print_json({"builds": [_document(result) for result in results]})
        failures = [result.error for result in results if result.error]
        if len(results) > 1 and not self.json:
            print(f"{len(results) - len(failures)} ready, {len(failures)} failed")
        return 0 if not failures else failures[0].exit_code if len(failures) == 1 else BuildError.exit_code

    def _names(self) -> list[str]:
        stores = self.stores()
        if self.all:
            return [kernel.name for _, kernel in stores.kernels()]
        if not self.extra_args:
            raise SettingsError("Name the kernels to build, or say --all. `jupyter sepal list` shows them.")
        return list(dict.fromkeys(stores.find(name)[1].name for name in self.extra_args))

    def _build(self, names: list[str], on_progress: OnProgress) -> Iterator[Result]:
        """Up to `jobs` builds side by side; a result for each, as it ends."""
        stores, settings = self.stores(), self.settings()
        waiting = list(names)
        running: dict[str, Build] = {}
        while waiting or running:
            while waiting and len(running) < self.jobs:
                name = waiting.pop(0)
                try:
                    found = request_build(stores, name, settings, force=self.force)
                except SepalError as error:
                    yield self._tell(Result(name, error=error))
                    continue
                if isinstance(found, Build):
                    running[name] = found
                else:
                    yield self._tell(Result(name, found))
            for name, build in list(running.items()):
                seconds = time.time() - build.began
                try:
                    generation = build.step()
                except SepalError as error:
                    del running[name]
                    yield self._tell(Result(name, error=error, built=True, seconds=seconds))
                    continue
                if generation is not None:
                    del running[name]
                    yield self._tell(Result(name, generation, built=True, seconds=seconds))
                elif progress := build.progress:
                    on_progress(name, progress)
            time.sleep(LOOK_EVERY if running else 0)

    def _tell(self, result: Result) -> Result:
        if self.json:
            return result
        if result.error:
            self.say(f"{result.name}: failed: {result.error}\n  log: jupyter sepal log {result.name}")
        elif result.generation and result.built:
            with contextlib.suppress(OSError, ValueError):
                size = human_size(result.generation.record().size)
                print(f"{result.name}: ready after {human_time(result.seconds)}, {size}: {result.generation.path}")
        elif result.generation:
            print(f"{result.name}: was ready: {result.generation.path}")
        sys.stdout.flush()
        return result


@contextlib.contextmanager
def display(command: SepalCommand) -> Iterator[OnProgress]:
    """Where builds are shown: bars on a terminal (with rich), plain lines at each new phase elsewhere."""
    if command.json:
        yield lambda name, progress: None
    elif sys.stderr.isatty() and (bars := _bars()) is not None:
        with bars as on_progress:
            yield on_progress
    else:
        yield _lines(command)


def _lines(command: SepalCommand) -> OnProgress:
    said: dict[str, object] = {}

    def on_progress(name: str, progress: Progress) -> None:
        if said.get(name) is not progress.phase:
            said[name] = progress.phase
            command.say(f"{name}: {progress.sentence()}")

    return on_progress


def _bars() -> contextlib.AbstractContextManager[OnProgress] | None:
    """A bar for each build, or None where rich is not installed."""
    try:
        from .bars import bars
    except ImportError:
        return None
    return bars()


def _document(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "state": "failed" if result.error else "ready",
        "built": result.built,
        "prefix": str(result.generation.path) if result.generation else None,
        "seconds": round(result.seconds, 3),
        "error": error_document(result.error) if result.error else None,
    }
