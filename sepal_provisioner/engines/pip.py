"""The pip section, the same for every engine: `uv pip install` where uv is found, else the prefix's own pip."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import PipError
from ..lockfile import LOCK_FILE
from ..progress import Phase
from ..requirements import pip_target
from .job import Job, explain

_STEP = re.compile(
    r"\s*(?P<what>Resolved|Prepared|Downloading|Downloaded|Building|Built|Collecting|Using cached|Installing)\b"
    r"(?P<item>.*)"
)


def uv_program() -> str | None:
    """The uv program: the one installed beside us, else what PATH finds."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        return shutil.which("uv")


def install_section(job: Job) -> None:
    """Install the file's pip lines, or the lock's and nothing they depend on. Raises PipError with its last lines."""
    if job.file.lock:
        if job.file.lock.pip:
            install(job, [package.line for package in job.file.lock.pip], deps=False)
    elif job.file.pip:
        install(job, job.file.pip)


def install(job: Job, lines: Sequence[str], *, deps: bool = True) -> None:
    """Install requirement lines into the job's prefix, run in the environment file's folder."""
    job.reporter.phase(Phase.PIP)
    requirements = job.prefix / ".sepal" / "requirements.txt"
    requirements.parent.mkdir(parents=True, exist_ok=True)
    requirements.write_text("".join(f"{absolute(line, job.folder)}\n" for line in lines), encoding="utf-8")
    uv = uv_program()
    tool = "uv pip" if uv else "pip"
    command = (
        [uv, "pip", "install", "--python", job.python, "--no-progress"]
        if uv
        else [job.python, "-m", "pip", "install", "--no-input", "--no-compile", "--progress-bar", "off"]
    )
    command += [] if deps else ["--no-deps"]
    env = {
        "UV_CACHE_DIR": str(job.cache / "uv"),
        "PIP_CACHE_DIR": str(job.cache / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }

    def on_line(line: str) -> None:
        if step := _STEP.match(line):
            job.reporter.update(item=f"{step['what']}{step['item']}"[:200])

    done = job.run([*command, "-r", str(requirements)], on_line, env=env)
    if done.code:
        asking = job.file.path if deps else LOCK_FILE
        raise explain(
            f"{tool} could not install what {asking} asks for. Try its pip lines by hand.",
            done.stdout,
            PipError,
        )


def absolute(line: str, folder: Path) -> str:
    """A requirement line with its local path made absolute: the file it goes into lies elsewhere. Its marker stays."""
    option, target = pip_target(line)
    if not option or "://" in target or target[:5].lower() == "file:":
        return line
    path = target if target.startswith("/") else f"{folder}/{target}"
    if option != "path":
        return f"{option} {shlex.quote(path)}"
    _, semicolon, marker = line.partition(";")
    return f"{path} ;{marker}" if semicolon else path
