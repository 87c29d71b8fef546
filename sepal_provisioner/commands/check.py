"""`jupyter sepal check`."""

from __future__ import annotations

import os
import sys
from textwrap import dedent

from traitlets import Bool, CaselessStrEnum, List, Unicode

from ..checks import Finding, Level, Subject, run_checks
from ..checks.repository import subject_of
from ..envfile import find_environment_file
from ..errors import SettingsError
from . import findings as shown
from .command import SepalCommand


class CheckCommand(SepalCommand):
    """Tell an author what is wrong with a repository before somebody else meets it."""

    name = "jupyter-sepal-check"
    verb = "check"
    summary = "Check a repository before a pull request: file, solve, notebooks, logo."
    description = """Check a working tree (uncommitted changes included) or a git repository: its catalog entry, its
    environment file and lock, whether the environment can be had (a dry run; nothing is installed), and known traps.
    Each finding has a code, which docs/check.md explains. Ends with 0 when nothing is worse than a warning, else 1.

    A dry run may run the build scripts of what a pip section names; --no-solve runs nothing.
    """
    examples = dedent(
        """\
        jupyter sepal check .
        jupyter sepal check https://github.com/sepal-contrib/gwb --branch=main
        jupyter sepal check . --no-solve --strict --format=github    # in a workflow"""
    )

    format = CaselessStrEnum(
        ["text", "json", "github"],
        default_value="text",
        help="How findings are written: `text` for people, `json`, or `github` for annotations of a pull request.",
    ).tag(config=True)
    catalog = List(
        Unicode(), help="A catalog that is to name the repository, as in c.Sepal.catalogs. Default: those."
    ).tag(config=True)
    branch = Unicode("", help="The branch of a URL to check. Default: the repository's own.").tag(config=True)
    solve = Bool(True, help="Whether the environment is solved, which needs its channels and PyPI.").tag(config=True)
    strict = Bool(False, help="Let warnings fail the check, too.").tag(config=True)

    aliases = {
        **SepalCommand.aliases,
        "format": "CheckCommand.format",
        "catalog": "CheckCommand.catalog",
        "branch": "CheckCommand.branch",
    }
    flags = {
        **SepalCommand.flags,
        "no-solve": ({"CheckCommand": {"solve": False}}, "Don't solve the environment: no network is needed."),
        "strict": ({"CheckCommand": {"strict": True}}, "Let warnings fail the check, too."),
    }

    def run(self) -> int:
        if len(self.extra_args) != 1:
            raise SettingsError("Name one folder or URL: jupyter sepal check .")
        settings = self.settings()
        if self.catalog:
            settings.catalogs = [self._source(source) for source in self.catalog]
        with subject_of(self.extra_args[0], settings, self.branch) as subject:
            if self.solve and sys.stderr.isatty():
                self.say("Checking, and solving the environment; --no-solve leaves that out.")
            found = list(run_checks(subject, solve=self.solve))
            self._show(subject, found)
        failed = shown.count(found, Level.ERROR) or (self.strict and shown.count(found, Level.WARNING))
        return 1 if failed else 0

    def _source(self, source: str) -> str:
        """A catalog as the settings have it; a relative path is relative to where we were called."""
        return os.path.abspath(source) if os.path.exists(source) else source

    def _show(self, subject: Subject, found: list[Finding]) -> None:
        style = "json" if self.json else self.format
        if style == "json":
            self.print_json(
                {
                    "repository": subject.remote or None,
                    "kernel": subject.kernel_name,
                    "environment_file": find_environment_file(subject.root),
                    "findings": shown.document(found),
                    **{f"{level.value}s": shown.count(found, level) for level in Level},
                }
            )
        elif style == "github":
            if found:
                print(shown.github(found), flush=True)
            self.say(shown.summary(found))
        else:
            print(shown.text(found, sys.stdout.isatty() and "NO_COLOR" not in os.environ))
        sys.stdout.flush()
