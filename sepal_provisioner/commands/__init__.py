"""`jupyter sepal`: the same calls as the server makes, from a terminal. One module for each verb."""

from __future__ import annotations

import sys

from .app import SepalApp

__all__ = ["SepalApp", "main"]


def main(argv: list[str] | None = None) -> None:
    """The console script: ends the process with the verb's exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    SepalApp.launch_instance(argv=arguments or ["--help"])
