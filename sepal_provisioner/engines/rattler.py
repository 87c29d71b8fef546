"""py-rattler: the embedded engine. It solves and installs in this process, which must be a build's own.

The interpreter may crash when it exits right after py-rattler's last await, so a build process ends with `os._exit`.
"""

from __future__ import annotations

import asyncio
from importlib import metadata

from ..lockfile import LOCK_FILE
from ..settings import Sepal
from .channels import conda_request
from .job import Job
from .locked import verify
from .pip import install_section
from .resolve import resolve_section
from .solution import Solution


def version(settings: Sepal) -> str | None:
    """py-rattler's version, or None when it is not installed."""
    try:
        return metadata.version("py-rattler")
    except metadata.PackageNotFoundError:
        return None


def create(job: Job) -> None:
    """Solve (or take the lock), download and link in process, then install the pip section."""
    request = conda_request(job.file, job.settings.channel_mirrors)
    job.log(f"# py-rattler {version(job.settings)}")
    if job.file.lock:
        job.log(f"# {LOCK_FILE}: {len(job.file.lock.conda)} conda packages, nothing is solved")
    else:
        job.log(f"# channels: {' '.join(request.channels)}")
        job.log(f"# specs: {', '.join(request.specs)}")
    from .rattler_install import create_prefix

    asyncio.run(asyncio.wait_for(create_prefix(job, request), job.deadline()))
    if job.file.lock:
        verify(job, job.file.lock)
    install_section(job)


def solve(job: Job) -> Solution:
    """Solve (or look the lock's packages up) in process, and resolve the pip section."""
    request = conda_request(job.file, job.settings.channel_mirrors)
    from .rattler_install import solve_prefix

    solution = asyncio.run(asyncio.wait_for(solve_prefix(job, request), job.deadline()))
    return resolve_section(job, solution)
