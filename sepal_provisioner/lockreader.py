"""Reading a lock, which somebody else may have written: every message names its line, and nothing odd gets in."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import EnvironmentFileError
from .lockfile import DIRECT, LOCK_FILE, PINNED, Lock, LockedPackage, LockedPip, conda_platform, direct_url
from .mirrors import public_url
from .requirements import pip_target, read_text

LOCK_BYTES = 4_000_000
LINE_LIMIT = 10_000

_PACKAGE = re.compile(r"(?P<url>[^\s#]+)(?:#(?:(?P<md5>[0-9a-f]{32})|(?:sha256:)?(?P<sha256>[0-9a-f]{64})))?\Z")
_URL = re.compile(r"https://[A-Za-z0-9.-]+(?::\d+)?(?:/[A-Za-z0-9._~!+@%=,-]+){3,}\Z")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*-[A-Za-z0-9_.!+]+-[A-Za-z0-9_.+]+\.(?:conda|tar\.bz2)\Z")
_COMMENT = re.compile(r"#\s*(?P<kind>platform|pip|sha256):\s*(?P<rest>.*)\Z")
_HASH = re.compile(r"(?P<sha256>[0-9a-f]{64})\s+(?P<file>\S+)\Z")
_REMOTE = re.compile(r"(?:https|git\+https|git\+ssh)://[A-Za-z0-9][^/\s]*/\S+\Z")


def read_shipped_lock(checkout: Path) -> Lock | None:
    """The lock that a repository ships at its root, or None. Raises EnvironmentFileError, which names the line."""
    if not os.path.lexists(checkout / LOCK_FILE):
        return None
    lock = parse_lock(read_text(checkout, LOCK_FILE, LOCK_BYTES), LOCK_FILE)
    names = {package.name for package in lock.conda}
    for name, held in (("python", names), ("ipykernel", names | {package.name.lower() for package in lock.pip})):
        if name not in held:
            raise EnvironmentFileError(
                f"{LOCK_FILE}: {name} is not among its packages, and without it there is no kernel. Lock an "
                "environment that holds it: `jupyter sepal lock` of a kernel that works always does."
            )
    return lock


def parse_lock(text: str, path: str, *, own: bool = False) -> Lock:
    """Parse a lock. Raises EnvironmentFileError, which names the line.

    `own` is for what we wrote about a prefix: it may name folders and plain http, which no repository may.
    """
    lines = text.splitlines()
    if len(lines) > LINE_LIMIT:
        raise EnvironmentFileError(f"{path}: line {LINE_LIMIT + 1}: a lock has no more than {LINE_LIMIT} lines.")
    reader = _Reader(own)
    for number, line in enumerate(lines, 1):
        try:
            reader.read(number, line.strip())
        except ValueError as error:
            raise EnvironmentFileError(f"{path}: line {number}: {error}.") from None
    for file, (number, _) in reader.hashes.items():
        if file not in {package.file for package in reader.conda.values()}:
            raise EnvironmentFileError(f"{path}: line {number}: {file[:200]!r} is none of the packages.")
    if reader.conda and not reader.explicit:
        raise EnvironmentFileError(f"{path}: line 1: there is no line `@EXPLICIT`, which says that this is a lock.")
    return reader.lock()


class _Reader:
    """What has been read of a lock so far. `read` raises ValueError with what is wrong with a line."""

    def __init__(self, own: bool) -> None:
        self._own = own
        self.platform = conda_platform()
        self.explicit = False
        self.conda: dict[str, LockedPackage] = {}
        self.hashes: dict[str, tuple[int, str]] = {}
        self._pip: dict[str, LockedPip] = {}

    def lock(self) -> Lock:
        """The lock, each package with both its hashes."""
        packages = (
            replace(package, sha256=self.hashes[package.file][1]) if package.file in self.hashes else package
            for package in self.conda.values()
        )
        return Lock(self.platform, tuple(packages), tuple(self._pip.values()))

    def read(self, number: int, line: str) -> None:
        if not line:
            return
        if not line.isprintable():
            raise ValueError("characters that can't be shown")
        if line == "@EXPLICIT":
            self.explicit = True
        elif not line.startswith("#"):
            self._package(line)
        elif found := _COMMENT.match(line):
            self._comment(number, found["kind"], found["rest"])

    def _comment(self, number: int, kind: str, rest: str) -> None:
        if kind == "platform":
            if not self._own and rest != self.platform:
                raise ValueError(
                    f"this lock is for {rest[:50]!r}, but this machine is {self.platform}; make one here with "
                    "`jupyter sepal lock`, or ship none"
                )
            self.platform = rest
        elif kind == "sha256":
            if not (found := _HASH.match(rest)):
                raise ValueError(f"{rest[:200]!r} is not a sha256 and a file name")
            self.hashes[found["file"]] = (number, found["sha256"])
        else:
            package = _pip(rest, self._own)
            if package.name.lower() in self._pip:
                raise ValueError(f"the pip package {package.name} stands twice")
            self._pip[package.name.lower()] = package

    def _package(self, line: str) -> None:
        found = _PACKAGE.match(line)
        if not found:
            raise ValueError(
                f"{line[:200]!r} is not a package's URL with its hash (https://…/name-version-build.conda#md5)"
            )
        package = LockedPackage(found["url"], found["md5"] or "", found["sha256"] or "")
        _check_url(package, self._own)
        if not self._own:
            if not (package.md5 or package.sha256):
                raise ValueError(
                    f"{package.file} has no hash; `jupyter sepal lock` and `conda list --explicit --md5` write them"
                )
            if package.subdir not in (self.platform, "noarch"):
                raise ValueError(f"{package.file} is for {package.subdir!r}, but this machine is {self.platform}")
        if package.name in self.conda:
            raise ValueError(f"the package {package.name} stands twice")
        self.conda[package.name] = package


def _check_url(package: LockedPackage, own: bool) -> None:
    """Raises ValueError for a URL that is no package's, or that no lock of a repository may have."""
    url = package.url
    if not _FILE.match(package.file) or "://" not in url:
        raise ValueError(
            f"{public_url(url)[:300]!r} is not a package's URL (https://…/noarch/name-version-build.conda)"
        )
    if own:
        return
    if not url.startswith("https://"):
        raise ValueError(
            f"{public_url(url)[:300]!r} is not an https URL; a channel of this site's own belongs into "
            "c.Sepal.channel_mirrors, which also finds its packages' public URLs"
        )
    if public_url(url) != url or "@" in urlsplit(url).netloc:
        raise ValueError("the URL holds a password or token, which a repository must not")
    if not _URL.match(url) or ".." in unquote(url).split("/") or "." in unquote(url).split("/"):
        raise ValueError(f"{url[:300]!r} is not a package's URL (https://…/noarch/name-version-build.conda)")


def _pip(text: str, own: bool) -> LockedPip:
    """A pip line. Only what installs one known thing is let in: no option, no index, no open version."""
    line, _, said = (part.strip() for part in re.sub(r"\s+#\s*", "\0", text).partition("\0"))
    noted = PINNED.match(said)
    if pinned := PINNED.match(line):
        return LockedPip(line, pinned["name"], pinned["version"])
    if direct := DIRECT.match(line):
        if not own and not _REMOTE.match(direct["url"]):
            raise ValueError(f"{line[:200]!r}: expected https://…, git+https://… or git+ssh://…")
        if not own and direct_url(direct["url"]) != direct["url"]:
            raise ValueError("the URL holds a password, which a repository must not")
        return LockedPip(line, direct["name"], noted["version"] if noted else "")
    option, target = pip_target(line)
    if option in ("-e", "path") and not target.startswith(("/", "file:")):
        return LockedPip(line, noted["name"] if noted else target, noted["version"] if noted else "")
    raise ValueError(
        f"{line[:200]!r} is no locked pip package: expected name==version, name @ URL, or a path in the repository"
    )
