"""Run the benchmarks and print one table; the exit code is 1 when a ratio exceeds its bound."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import build
import dashboard
import launch
import listing
import prewarm
import sync
import waiting
from measure import Measure, own_place, say, table

MEASURES: dict[str, Callable[[Path], Iterator[Measure]]] = {
    "listing": listing.measures,
    "sync": sync.measures,
    "launch": launch.measures,
    "build": build.measures,
    "waiting": waiting.measures,
    "prewarm": prewarm.measures,
    "dashboard": dashboard.measures,
}

DESCRIPTION = """\
How fast is it? Each measure times two things in turns within this one run, ours and what would be used without us, and
compares their medians. Times differ between machines and from minute to minute; the ratios are what counts.

  listing   what JupyterLab's launcher asks for, against jupyter_client's own manager     about 10 s
  sync      60 unchanged repositories, against `git pull` in each of 60 clones            about 1 min
  launch    a ready kernel until its first answer, against a plain kernel.json            about 3 min
  build     a cold build, against creating the environment and `pip install ipykernel`    about 4 min
  waiting   a kernel without its environment, and the relay that it becomes               about 3 min
  prewarm   twelve environments, four at a time, against one after another                about 6 min
  dashboard 300 kernels in the browser's page, and the server while eight builds run      about 1 min
"""
EPILOG = """\
The table shows medians with their quartiles, the ratio, and the bound that it must keep (`-`: for information).
Exit code: 0 when every bound is kept, 1 otherwise.

examples:
  python benchmarks/run.py                          all of it, a quarter of an hour and more
  python benchmarks/run.py listing sync             two of them
  python benchmarks/run.py listing --json out.json  with every single duration in seconds

needs: pip install -e '.[test]', git, and for `build` a package index that pip can reach. The first run also makes the
tests' conda channel, which takes half a minute.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := set(options.measures) - set(MEASURES):
        parser.error(f"no measure {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    began = time.monotonic()
    found: list[Measure] = []
    with own_place() as work:
        for name in options.measures or MEASURES:
            folder = work / name
            folder.mkdir()
            found += MEASURES[name](folder)
    say("")
    print(table(found))
    missed = [one.name for one in found if not one.held]
    print(f"\n{'bound missed: ' + ', '.join(missed) if missed else 'every bound is kept'}, {_minutes(began)}")
    if options.json:
        document = [one.to_json() for one in found]
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/run.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help="which; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every duration to FILE")
    return parser


def _minutes(began: float) -> str:
    return f"{(time.monotonic() - began) / 60:.1f} min"


if __name__ == "__main__":
    sys.exit(main())
