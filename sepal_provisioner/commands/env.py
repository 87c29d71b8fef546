"""`jupyter sepal env`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from textwrap import dedent

from traitlets import Bool

from ..environ import Decision
from ..errors import SettingsError
from ..launch import explain
from .command import SepalCommand
from .ready import find_ready

INHERITED = "inherited"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")  # what a shell can assign to


class EnvCommand(SepalCommand):
    """Show the environment that a kernel starts in, and why each variable has its value."""

    name = "jupyter-sepal-env"
    verb = "env"
    summary = "Show each variable of a kernel's launch environment, and why it has its value."
    description = """Show what the launch policy makes of the variables of this shell: each one that it sets, changes or
    removes, its value in the kernel, and why. --all shows the inherited ones, too. --export prints what a shell can
    evaluate instead.
    """
    examples = dedent(
        """\
        jupyter sepal env venv-gwb
        jupyter sepal env venv-gwb --export > gwb.sh    # then, in a shell: . ./gwb.sh"""
    )

    all = Bool(False, help="Show the variables that are inherited as they are, too.").tag(config=True)
    export = Bool(False, help="Print export and unset commands for a shell.").tag(config=True)
    flags = {
        **SepalCommand.flags,
        "all": ({"EnvCommand": {"all": True}}, "Show the variables that are inherited as they are, too."),
        "export": ({"EnvCommand": {"export": True}}, "Print export and unset commands for a shell."),
    }

    def run(self) -> int:
        if len(self.extra_args) != 1:
            raise SettingsError("Name one kernel: jupyter sepal env venv-gwb")
        if self.export and self.json:
            raise SettingsError("Say one of --export and --json.")
        name, generation = find_ready(self.stores(), self.extra_args[0], "shown")
        decisions = explain(generation, name, os.environ, self.settings())
        if self.all:
            decided = {decision.variable for decision in decisions}
            rest = sorted(item for item in os.environ.items() if item[0] not in decided)
            decisions = (*decisions, *(Decision(variable, value, INHERITED) for variable, value in rest))
        if self.json:
            variables = [_document(decision) for decision in decisions]
            self.print_json({"name": name, "prefix": str(generation.path), "variables": variables})
        elif self.export:
            for line in export_lines(decisions):
                print(line)
        else:
            for decision in decisions:
                value = "(removed)" if decision.value is None else f"= {shown(decision.value)}"
                print(f"{shown(decision.variable)} {value}\n    {decision.reason}")
        return 0


def export_lines(decisions: Iterable[Decision]) -> Iterable[str]:
    """Lines that a POSIX shell evaluates to the same environment; nothing in a value is ever expanded.

    A variable that a shell can't name (`BASH_FUNC_x%%`) is left out.
    """
    for decision in decisions:
        if _NAME.match(decision.variable):
            if decision.value is None:
                yield f"unset {decision.variable}"
            else:
                yield f"export {decision.variable}={shlex.quote(decision.value)}"


def shown(value: str) -> str:
    """A value on one line of a terminal, without the control characters that would move its cursor."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in value)


def _document(decision: Decision) -> dict[str, str | None]:
    return {
        "name": decision.variable,
        "value": decision.value,
        "inherited": os.environ.get(decision.variable),
        "reason": decision.reason,
    }
