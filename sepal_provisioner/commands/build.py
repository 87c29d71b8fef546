"""`jupyter sepal build`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from textwrap import dedent
from typing import Any

from traitlets import Bool, Integer

from ..builds import LOOK_EVERY
from ..errors import BuildError, SettingsError
from ..files import human_size, human_time
from ..pool import Pool, Result, Row
from .command import SepalCommand, error_document
from .table import print_table

Draw = Callable[[Sequence[Row]], None]


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
        pool = Pool(self.stores(), self.settings(), self.jobs, force=self.force)
        for name in names:
            pool.add(name)
        with self._display() as draw:
            results = list(self._wait(pool, draw))
        if draw is not None and len(results) == 1:
            self._tell(results[0])
        if self.json:
            self.print_json({"builds": [_document(result) for result in results]})
        elif len(names) > 1:
            _report(results)
        failures = [result.error for result in results if result.error]
        return 0 if not failures else failures[0].exit_code if len(failures) == 1 else BuildError.exit_code

    def _wait(self, pool: Pool, draw: Draw | None) -> Iterator[Result]:
        """Every result, as it comes."""
        done: list[Result] = []
        while pool.busy:
            ended = pool.step()
            done += ended
            if draw is not None:
                draw(pool.rows(done))
            else:
                self._lines(pool.rows())
                for result in ended:
                    self._tell(result)
            yield from ended
            time.sleep(LOOK_EVERY if pool.busy else 0)

    def _names(self) -> list[str]:
        stores = self.stores()
        if self.all:
            names = [kernel.name for _, kernel in stores.kernels()]
            if not names:
                self.say("No kernels are known. `jupyter sepal sync` reads the catalogs.")
            return names
        if not self.extra_args:
            raise SettingsError("Name the kernels to build, or say --all. `jupyter sepal list` shows them.")
        return list(dict.fromkeys(stores.find(name)[1].name for name in self.extra_args))

    def _tell(self, result: Result) -> None:
        """A line for what ended, as it ends."""
        if self.json:
            return
        if result.error:
            self.say(f"{result.name}: failed: {result.error}\n  log: jupyter sepal log {result.name}")
        elif result.generation and result.built:
            took = f"{human_time(result.seconds)}, {human_size(result.size)}"
            print(f"{result.name}: ready after {took}: {result.generation.path}")
        elif result.generation:
            print(f"{result.name}: was ready: {result.generation.path}")
        sys.stdout.flush()

    @contextlib.contextmanager
    def _display(self) -> Iterator[Draw | None]:
        """A live table on a terminal (with rich), else None: plain lines."""
        self._lines = plain_lines(self)
        if (table := live_table_of(self)) is not None:
            with table as draw:
                yield draw
        else:
            yield None


def plain_lines(command: SepalCommand) -> Draw:
    """A line at each new phase of each build; none where a script reads."""
    said: dict[str, object] = {}

    def draw(rows: Sequence[Row]) -> None:
        for row in rows:
            if row.progress and not command.json and said.get(row.name) is not row.progress.phase:
                said[row.name] = row.progress.phase
                command.say(f"{row.name}: {row.progress.sentence()}")

    return draw


def live_table_of(command: SepalCommand) -> contextlib.AbstractContextManager[Draw] | None:
    """The live table on a terminal; None where there is none, a script reads, or rich is not installed."""
    if command.json or not sys.stderr.isatty():
        return None
    try:
        from .live import live_table
    except ImportError:
        return None
    return live_table()


def _report(results: Sequence[Result]) -> None:
    """What became of each: ready or failed, how long it took, its size, and why it failed."""
    ordered = sorted(results, key=lambda result: (result.error is not None, result.name))
    rows = []
    for result in ordered:
        took = human_time(result.seconds) if result.built else ""
        size = human_size(result.size) if result.size else ""
        state = "failed" if result.error else "ready" if result.built else "was ready"
        rows.append((result.name, state, took, size))
    print()
    print_table(("KERNEL", "RESULT", "TOOK", "SIZE"), rows)
    failures = [(result.name, result.error) for result in ordered if result.error]
    print(f"{len(results) - len(failures)} ready, {len(failures)} failed")
    for name, error in failures:
        print(f"{name}: [{error.code}] {error.message.splitlines()[0]}")
    if failures:
        print(f"All of it: jupyter sepal log {failures[0][0]}")
    sys.stdout.flush()


def _document(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "state": "failed" if result.error else "ready",
        "built": result.built,
        "prefix": str(result.generation.path) if result.generation else None,
        "seconds": round(result.seconds, 3),
        "size": result.size or None,
        "error": error_document(result.error) if result.error else None,
    }
