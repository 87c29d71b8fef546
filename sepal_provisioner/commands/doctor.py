"""`jupyter sepal doctor`."""

from __future__ import annotations

import os
from dataclasses import asdict
from textwrap import dedent

from traitlets import Bool

from ..doctor import Finding, Level, examine
from .command import SepalCommand
from .env import shown

SIGNS = {Level.OK: "ok      ", Level.INFO: "info    ", Level.WARNING: "warning ", Level.PROBLEM: "PROBLEM "}


class DoctorCommand(SepalCommand):
    """Look for what keeps kernels from being listed, built or started."""

    name = "jupyter-sepal-doctor"
    verb = "doctor"
    summary = "Check git, engines, stores, catalogs, channels and the server."
    description = """Check what kernels depend on: git, engines, stores and who may write them, locks, disks, catalogs,
    channel mirrors, inherited variables, the server's configuration and its widgets. Each finding says what is wrong,
    why that matters, and what helps. Nothing is changed. It ends with 1 when there is a problem.
    """
    examples = dedent(
        """\
        jupyter sepal doctor
        jupyter sepal doctor --json | jq '.findings[] | select(.level == "problem")'"""
    )

    quiet = Bool(False, help="Show warnings and problems only.").tag(config=True)
    flags = {
        **SepalCommand.flags,
        "quiet": ({"DoctorCommand": {"quiet": True}}, "Show warnings and problems only."),
    }

    def run(self) -> int:
        findings = []
        for finding in examine(self.settings(), self.config, os.environ):
            findings.append(finding)
            if not self.json and (not self.quiet or finding.level in (Level.WARNING, Level.PROBLEM)):
                print("\n".join(lines(finding)), flush=True)
        counts = {level: sum(finding.level is level for finding in findings) for level in Level}
        if self.json:
            documents = [{**asdict(finding), "level": finding.level.value} for finding in findings]
            self.print_json({"findings": documents, "problems": counts[Level.PROBLEM]})
        else:
            print(f"{counts[Level.PROBLEM]} problems, {counts[Level.WARNING]} warnings")
        return 1 if counts[Level.PROBLEM] else 0


def lines(finding: Finding) -> list[str]:
    """A finding for people: what, and below it why and what helps."""
    more = [text for text in (finding.why, finding.remedy) if text]
    return [
        f"{SIGNS[finding.level]}{finding.check:10}{shown(finding.what)}",
        *(f"{'':18}{shown(text)}" for text in more),
    ]
