"""`jupyter sepal`: the same calls as the server makes, from a terminal. One module for each verb."""

from __future__ import annotations

import os
import sys

from .app import SepalApp

__all__ = ["SepalApp", "main"]


def main(argv: list[str] | None = None) -> None:
    """The console script: ends the process with the verb's exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        try:
            SepalApp.launch_instance(argv=arguments or ["--help"])
        finally:
            sys.stdout.flush()  # here, where its failure can still be answered
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. What is left in the buffer goes nowhere when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        raise SystemExit(0) from None
