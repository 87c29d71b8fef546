"""What pip lines would bring, without installing them: `uv pip compile`, else `pip install --dry-run`.

Both look at the index alone, as if nothing were installed: what conda provides already may be among the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from ..catalog import text_without_credentials
from ..errors import BuildError, PipError
from ..process import Completed, run, tied
from ..progress import Phase
from .job import Job, explain, shown
from .pip import absolute, uv_program
from .solution import Solution

TAIL = 4_000  # characters of an installer's last words
_PINNED = re.compile(r"([A-Za-z0-9][\w.-]*)\s*(==\s*|@\s)(\S+)")


def resolve_section(job: Job, solution: Solution) -> Solution:
    """A conda solution with what the file's pip section, or its lock, adds. Raises PipError with the tool's words."""
    if job.file.lock:
        return replace(solution, pip=tuple(f"{package.name} {package.version}" for package in job.file.lock.pip))
    return resolve(job, job.file.pip, solution, solution.version("python")) if job.file.pip else solution


def resolve(job: Job, lines: Sequence[str], solution: Solution, python: str = "") -> Solution:
    """A solution with what requirement lines bring, for a Python version, or for the site's own interpreter."""
    job.reporter.phase(Phase.PIP)
    requirements = job.prefix.parent / "requirements.txt"
    requirements.write_text("".join(f"{absolute(line, job.folder)}\n" for line in lines), encoding="utf-8")
    interpreter = job.settings.interpreter
    minor = ".".join(python.split(".")[:2])
    if uv := uv_program():
        command = [uv, "pip", "compile", "--python", interpreter, "--no-header", "--no-annotate", "--no-progress"]
        command += ["--color", "never", *(["--python-version", minor] if minor else []), str(requirements)]
        done = _run(job, command)
        found = [_named(line) for line in done.stdout.splitlines() if line.strip() and not line.startswith("#")]
    else:
        here = run([interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], timeout=30).stdout.strip()
        if minor and minor != here:
            note = f"the pip section was not tried: that needs uv, or Python {minor} (this is {here})"
            return replace(solution, notes=(*solution.notes, note))
        command = [interpreter, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-input", "--quiet"]
        done = _run(job, [*command, "--report", "-", "-r", str(requirements)])
        found = [f"{m['name']} {m['version']}" for m in _report(done.stdout)]
    return replace(solution, pip=tuple(sorted(found, key=str.lower)))


def _run(job: Job, command: Sequence[str]) -> Completed:
    job.log(f"$ {shown(command)}")
    env = {
        **job.env,
        "UV_CACHE_DIR": str(job.cache / "uv"),
        "PIP_CACHE_DIR": str(job.cache / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    done = run(tied(command), cwd=job.folder, env=env, timeout=job.deadline())
    if done.timed_out:
        raise BuildError("The pip section took too long to resolve.")
    if done.code:
        words = text_without_credentials(done.stderr)[-TAIL:].strip()
        raise explain(f"What {job.file.path} asks of pip can't be had.", words, PipError)
    return done


def _named(line: str) -> str:
    found = _PINNED.match(line)
    return f"{found[1]} {found[3]}" if found else line.strip()


def _report(text: str) -> list[dict[str, str]]:
    try:
        return [item["metadata"] for item in json.loads(text)["install"]]
    except (ValueError, KeyError, TypeError):
        raise PipError("pip's report can't be read; it needs pip 23 or later.") from None
