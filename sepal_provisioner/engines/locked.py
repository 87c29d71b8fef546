"""A lock at this site: where its packages are fetched from, and the proof that a prefix holds exactly them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..catalog import text_without_credentials
from ..errors import SolveError
from ..lockfile import LOCK_FILE, Lock, LockedPackage
from ..mirrors import redirected
from ..provenance import conda_records
from .job import Job


def targets(job: Job, lock: Lock) -> list[tuple[LockedPackage, str]]:
    """Each package and the URL that this site has it from. Raises SolveError when its channel is left out here."""
    found = [(package, redirected(package.url, job.settings.channel_mirrors)) for package in lock.conda]
    if left_out := [f"{package.url}: its channel is left out here" for package, url in found if not url]:
        raise SolveError(
            f"{LOCK_FILE} takes packages from a channel that c.Sepal.channel_mirrors leaves out. Make the lock at this "
            "site, or set a mirror.",
            detail="\n".join(left_out),
        )
    return found


def explicit_text(job: Job, lock: Lock) -> str:
    """The lock as micromamba reads it, with this site's URLs and the strongest hash that is known."""
    lines = [f"{url}#{f'sha256:{p.sha256}' if p.sha256 else p.md5}" for p, url in targets(job, lock)]
    return "\n".join([f"# platform: {lock.platform}", "@EXPLICIT", *lines]) + "\n"


def refuse(faults: Sequence[str]) -> None:
    """Raises SolveError if there is any fault: a lock is kept to the letter or not at all."""
    if faults:
        raise SolveError(
            f"What {LOCK_FILE} names can't be had any more, or is no longer the same. Make the lock anew: build "
            "without it, then `jupyter sepal lock`.",
            detail=text_without_credentials("\n".join(sorted(faults))),
        )


def file_fault(package: LockedPackage, url: str) -> str:
    """What is wrong with a package in a folder of this machine, whose hash no engine looks at; "" when it is right."""
    path = Path(unquote(urlsplit(url).path))
    algorithm, wanted = ("sha256", package.sha256) if package.sha256 else ("md5", package.md5)
    digest = hashlib.new(algorithm)
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        return f"{package.file} is gone: {path}: {error.strerror}"
    return "" if digest.hexdigest() == wanted else f"{package.file} differs: its {algorithm} is {digest.hexdigest()}"


def check_files(job: Job, lock: Lock) -> None:
    """Check the hashes of what comes from folders of this machine. Raises SolveError."""
    local = [(package, url) for package, url in targets(job, lock) if url.startswith("file:")]
    refuse([fault for package, url in local if (fault := file_fault(package, url))])


def verify(job: Job, lock: Lock) -> None:
    """Prove that the prefix holds exactly the locked conda packages. Raises SolveError, which names the others."""
    held = {name.lower(): record for name, record in conda_records(job.prefix).items()}
    wanted = {package.name: package for package in lock.conda}
    faults = [f"{held[name]['url']} was installed, but is not in the lock" for name in held if name not in wanted]
    for name, package in wanted.items():
        if name not in held:
            faults.append(f"{package.file} was not installed")
            continue
        record = held[name]
        found = (str(record.get("version")), str(record.get("build")))
        if found != (package.version, package.build):
            faults.append(f"{package.file} differs: {name} {' '.join(found)} was installed")
        for algorithm, digest in (("md5", package.md5), ("sha256", package.sha256)):
            if digest and (record.get(algorithm) or digest) != digest:
                faults.append(f"{package.file} differs: its {algorithm} is {record[algorithm]}")
    refuse(faults)
