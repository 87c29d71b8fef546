"""micromamba 2.x: one external binary that solves, downloads and links.

Off a terminal it prints no download progress, only the transaction's size and a line for each package it links. Its
exit code is what counts. It is never given the pip section: its own pip step would leave its output and its temporary
file beside the environment file, which may be read-only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence

from ..errors import BuildError, SolveError
from ..files import write_atomic
from ..process import Completed, run, tied
from ..progress import Phase
from ..settings import Sepal
from .channels import conda_request
from .job import Job, explain
from .locked import check_files, explicit_text, verify
from .pip import install_section
from .resolve import resolve_section
from .solution import Solution

_INSTALL = re.compile(r"^\s*Install:\s+(\d+) packages?", re.IGNORECASE)
_DOWNLOAD = re.compile(r"^\s*Total download:\s+([\d.]+)\s*([kMGT]?i?)B", re.IGNORECASE)
_LINKING = re.compile(r"^Linking (\S+)")
_UNSOLVABLE = "Could not solve for environment specs"
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def program(settings: Sepal) -> str | None:
    """Where micromamba is, by setting, MAMBA_EXE or PATH."""
    for candidate in (settings.micromamba, os.environ.get("MAMBA_EXE", ""), "micromamba"):
        if candidate and (found := shutil.which(os.path.expanduser(candidate))):
            return found
    return None


def version(settings: Sepal) -> str | None:
    """micromamba's version, or None when it is not found or does not run."""
    if (found := program(settings)) is None:
        return None
    try:
        done = run([found, "--version"], timeout=30)
    except OSError:
        return None
    return done.stdout.strip().splitlines()[0] if not done.code and done.stdout.strip() else None


def create(job: Job) -> None:
    """Create the prefix with `micromamba create`, from specs or from the lock, then install the pip section."""
    command, env = _command(job)
    job.reporter.phase(Phase.SOLVE)
    counts = {"linked": 0, "total": 0}

    def on_line(line: str) -> None:
        if match := _INSTALL.match(line):
            counts["total"] = int(match[1])
        elif match := _DOWNLOAD.match(line):
            unit = _UNITS[match[2][:1].lower()]
            job.reporter.phase(Phase.DOWNLOAD, counts["total"])
            job.reporter.update(bytes_total=int(float(match[1]) * unit))
        elif match := _LINKING.match(line):
            job.reporter.phase(Phase.LINK, counts["total"])
            counts["linked"] += 1
            job.reporter.update(done=counts["linked"], item=match[1])

    with _wanted(job) as arguments:
        done = job.run([*command, *arguments], on_line, env=env)
    _check(job, done.code, done.stdout)
    if job.file.lock:
        verify(job, job.file.lock)
    install_section(job)


def solve(job: Job) -> Solution:
    """Solve with `micromamba create --dry-run`; a lock is taken as it stands. Then resolve the pip section."""
    if job.file.lock:
        check_files(job, job.file.lock)
        locked = tuple(sorted(f"{package.name} {package.version}" for package in job.file.lock.conda))
        return resolve_section(job, Solution(conda=locked))
    command, env = _command(job)
    job.reporter.phase(Phase.SOLVE)
    with _wanted(job) as arguments:
        whole = [*command, "--dry-run", *arguments]
        done = _quiet(job, [*whole, "--json"], env)
        if done.code:  # with --json it doesn't explain what can't be solved
            done = _quiet(job, whole, env)
            _check(job, done.code or 1, f"{done.stdout}\n{done.stderr}")
    return resolve_section(job, _planned(done.stdout))


def _quiet(job: Job, command: Sequence[str], env: dict[str, str]) -> Completed:
    done = run(tied(command), cwd=job.folder, env=env, timeout=job.deadline())
    if done.timed_out:
        raise BuildError("micromamba took too long to solve.")
    return done


def _planned(text: str) -> Solution:
    """The transaction that `--dry-run --json` prints. Raises BuildError."""
    try:
        actions = json.loads(text).get("actions", {})
        names = sorted(f"{package['name']} {package['version']}" for package in actions.get("LINK", ()))
        size = sum(int(package.get("size") or 0) for package in actions.get("FETCH", ()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BuildError("micromamba's plan can't be read.", detail=text[-2000:]) from None
    return Solution(conda=tuple(names), size=size)


def _command(job: Job) -> tuple[list[str], dict[str, str]]:
    """The command that creates the prefix, without what it holds, and its environment."""
    found = program(job.settings)
    if found is None:
        raise BuildError("micromamba has vanished since the build began.")
    env = {name: value for name, value in job.env.items() if not name.startswith(("MAMBA_", "CONDA_"))}
    env |= {name: job.env[name] for name in job.env if name.startswith("CONDA_OVERRIDE_")}
    env |= {
        "MAMBA_ROOT_PREFIX": str(job.cache / "micromamba"),
        "CONDA_PKGS_DIRS": str(job.cache / "micromamba" / "pkgs"),
    }
    return [found, "create", "--yes", "--no-rc", "--no-pyc", "--prefix", str(job.prefix)], env


def _check(job: Job, code: int, output: str) -> None:
    """Raises SolveError with the solver's explanation, or what else micromamba failed with."""
    if code and _UNSOLVABLE in output:
        raise SolveError(
            f"No set of packages satisfies {job.file.path}. Relax one of the specs named below.",
            detail=output.partition(_UNSOLVABLE)[2].strip(),
        )
    if code:
        raise explain(f"micromamba could not create the environment (exit code {code}).", output)


@contextlib.contextmanager
def _wanted(job: Job) -> Iterator[list[str]]:
    """What to create, as arguments: channels and specs, or the lock in a file of its own, which is never solved."""
    if job.file.lock is None:
        request = conda_request(job.file, job.settings.channel_mirrors)
        channels = [word for channel in request.channels for word in ("--channel", channel)]
        yield ["--override-channels", "--channel-priority", "strict", *channels, *request.specs]
        return
    check_files(job, job.file.lock)
    explicit = job.cache / "micromamba" / f"{job.prefix.name}.explicit.txt"
    write_atomic(explicit, explicit_text(job, job.file.lock), mode=0o600)  # mirrors may hold passwords
    try:
        yield ["--file", str(explicit)]
    finally:
        with contextlib.suppress(OSError):
            explicit.unlink()
