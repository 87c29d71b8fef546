"""The dry run of a build: what an engine would install, found out in a process of its own.

    python -m sepal_provisioner.dryrun <folder>      with its request in request.json; the answer goes to answer.json

A process of its own because py-rattler, which solves in process, can crash the interpreter at its exit.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from . import engines, process
from .engines import Solution
from .envfile import EnvironmentFile
from .environ import build_environment
from .errors import BuildError, SepalError, every_error
from .files import read_json, write_json
from .progress import Reporter
from .settings import Sepal

TIME_LIMIT = 900  # seconds


def dry_run(file: EnvironmentFile, root: Path, folder: Path, cache: Path, settings: Sepal) -> tuple[str, Solution]:
    """(the engine, what it would install) for the environment file of the repository at `root`.

    `folder` is an empty one of our own, `cache` where channels' indexes are kept. Raises what a build would.
    """
    engine = engines.choose(file, settings)
    request = {
        "engine": engine,
        "file": file.to_json(),
        "folder": str((root / file.path).parent),
        "cache": str(cache),
        "settings": settings.to_json(),
    }
    write_json(folder / "request.json", request, mode=0o600)  # mirrors may hold passwords
    limit = min(TIME_LIMIT, settings.build_timeout)
    done = process.run([sys.executable, "-m", "sepal_provisioner.dryrun", str(folder)], timeout=limit + 10)
    try:
        answer = read_json(folder / "answer.json")
    except (OSError, ValueError):
        reason = f"took longer than {limit} s" if done.timed_out else f"ended with {done.code}"
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise BuildError(f"The dry run {reason}.", detail="".join(last)) from None
    if error := answer.get("error"):
        raise every_error().get(error["code"], BuildError)(error["message"], detail=error["detail"])
    return engine, Solution.from_json(answer)


def _solve(folder: Path) -> Solution:
    """Do what request.json asks for. Raises SepalError."""
    request = read_json(folder / "request.json")
    settings = Sepal.from_json(request["settings"])
    file = EnvironmentFile.from_json(request["file"])
    deadline = time.monotonic() + min(TIME_LIMIT, settings.build_timeout)
    job = engines.Job(
        prefix=folder / "prefix",
        file=file,
        folder=Path(request["folder"]),
        cache=Path(request["cache"]),
        settings=settings,
        reporter=Reporter(folder / "progress.json", file.name, ""),
        env=build_environment(os.environ, settings.build_variables),
        log=lambda line: None,
        deadline=lambda: max(1.0, deadline - time.monotonic()),
    )
    return engines.ENGINES[request["engine"]].solve(job)


def main(arguments: list[str]) -> int:
    """Answer one request."""
    folder = Path(arguments[0])
    try:
        document = _solve(folder).to_json()
    except TimeoutError:
        document = {"error": {"code": BuildError.code, "message": "The dry run took too long.", "detail": ""}}
    except SepalError as error:
        document = {"error": {"code": error.code, "message": error.message, "detail": error.detail}}
    write_json(folder / "answer.json", document)
    return 0


if __name__ == "__main__":
    code = 1
    try:
        code = main(sys.argv[1:])
    except BaseException:  # noqa: BLE001 - the one edge of this process: whoever asked shows it
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # as a build does: py-rattler can crash the interpreter while it shuts down
