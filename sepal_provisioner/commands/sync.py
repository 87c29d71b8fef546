"""`jupyter sepal sync`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from textwrap import dedent

from ..files import human_time, set_umask
from ..store import make_store
from ..sync import Outcome, Report, sync
from .command import SepalCommand


class SyncCommand(SepalCommand):
    """Read the catalogs and bring the repositories and the index up to date."""

    name = "jupyter-sepal-sync"
    verb = "sync"
    summary = "Read the catalogs and update the repositories."
    description = """Read the catalogs, clone or update every kernel's repository, and write the index.

    Nothing is built. What goes wrong with one catalog or repository is reported and costs nothing else; the last good
    state stays in use.
    """
    examples = dedent(
        """\
        jupyter sepal sync
        jupyter sepal sync --json | jq .problems"""
    )

    def run(self) -> int:
        settings = self.settings()
        if not settings.catalogs:
            self.say("No catalog is configured: set c.Sepal.catalogs in jupyter_server_config.py.")
        quiet = self.json or not sys.stderr.isatty()

        def on_done(outcome: Outcome, done: int, total: int) -> None:
            if not quiet:
                said = outcome.problems[0].message if outcome.problems else "done"
                self.say(f"[{done}/{total}] {outcome.app.name}: {said}")

        set_umask(make_store(settings).root)
        report = sync(settings, on_done)
        if self.json:
            self.print_json(_document(report))
        else:
            self._print(report)
        return 0

    def _print(self, report: Report) -> None:
        for problem in report.index.problems:
            self.say(f"warning: {problem}")
        for what, names in (("new", report.added), ("changed", report.changed), ("gone", report.removed)):
            for name in names:
                print(f"{what:8} {name}")
        print(
            f"{len(report.index.kernels)} kernels, {len(report.index.problems)} problems, {human_time(report.seconds)}"
        )


def _document(report: Report) -> dict[str, object]:
    return {
        "kernels": [kernel.name for kernel in report.index.kernels],
        "added": report.added,
        "changed": report.changed,
        "removed": report.removed,
        "catalogs": [asdict(state) for state in report.index.catalogs],
        "problems": [asdict(problem) for problem in report.index.problems],
        "seconds": round(report.seconds, 3),
    }
