"""A lock: every package of an environment, with its URL and hash, in conda's own explicit format.

    # platform: linux-64
    @EXPLICIT
    # sha256: ad7a… toml-0.10.2-pyhd8ed1ab_1.conda
    https://conda.anaconda.org/conda-forge/noarch/toml-0.10.2-pyhd8ed1ab_1.conda#d0fc…
    # pip: six==1.17.0
    # pip: thing @ git+https://example.org/someone/thing.git@<commit>  # thing==1.2
    # pip: -e ./package  # package==0.1

Every conda, mamba and micromamba reads `#<md5>` after a URL; conda before 24.9 reads nothing else there, so the
stronger hash stands in a comment. A repository may ship such a file: it is then what its environment consists of.
"""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote

from .mirrors import public_url
from .requirements import pip_target

LOCK_FILE = "sepal_environment.lock"

_MADE_BY = (
    "# Exactly these packages, as `jupyter sepal lock` found them. conda create --name NAME --file THIS_FILE",
    "# makes the conda part anywhere; the pip part stands in comments, to be installed with --no-deps.",
)
_PLATFORMS = {
    "linux-x86_64": "linux-64",
    "linux-aarch64": "linux-aarch64",
    "linux-ppc64le": "linux-ppc64le",
    "darwin-x86_64": "osx-64",
    "darwin-arm64": "osx-arm64",
}
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
PINNED = re.compile(rf"(?P<name>{_NAME})==(?P<version>[A-Za-z0-9.!+_-]+)\Z")
DIRECT = re.compile(rf"(?P<name>{_NAME}) @ (?P<url>\S+)\Z")


@dataclass(frozen=True)
class LockedPackage:
    """One conda package: its public URL and its hashes in hexadecimal digits, "" where unknown."""

    url: str
    md5: str = ""
    sha256: str = ""

    @property
    def file(self) -> str:
        """Its file name, `toml-0.10.2-pyhd8ed1ab_1.conda`."""
        return unquote(self.url.rsplit("/", 1)[-1])

    @property
    def subdir(self) -> str:
        """The platform's folder in its channel, which may be `noarch`."""
        return self.url.rsplit("/", 2)[-2]

    @property
    def name(self) -> str:
        """`toml`."""
        return self._parts()[0].lower()

    @property
    def version(self) -> str:
        """`0.10.2`."""
        return self._parts()[1]

    @property
    def build(self) -> str:
        """`pyhd8ed1ab_1`."""
        return self._parts()[2]

    def _parts(self) -> tuple[str, str, str]:
        name, version, build = self.file.removesuffix(".conda").removesuffix(".tar.bz2").rsplit("-", 2)
        return name, version, build


@dataclass(frozen=True)
class LockedPip:
    """One package that pip installed: the requirement line that installs just it, its name and version."""

    line: str
    name: str
    version: str = ""

    @property
    def url(self) -> str:
        """Where it comes from when that is not an index: a URL, or a path in the repository."""
        direct = DIRECT.match(self.line)
        return direct["url"] if direct else pip_target(self.line)[1]


@dataclass(frozen=True)
class Lock:
    """Every package of an environment. `platform` is conda's word (`linux-64`); the order is one that installs."""

    platform: str
    conda: tuple[LockedPackage, ...] = ()
    pip: tuple[LockedPip, ...] = ()

    def content(self) -> list[Any]:
        """What counts in a fingerprint: not the order, and no comment but those that name a hash or a pip package."""
        packages = sorted([package.url, package.md5, package.sha256] for package in self.conda)
        return [self.platform, packages, sorted(package.line for package in self.pip)]

    def text(self) -> str:
        """The file that `parse_lock` reads back, and the conda part of which conda, mamba and micromamba read."""
        lines = [*_MADE_BY, f"# platform: {self.platform}"]
        lines += ["@EXPLICIT"] if self.conda else []
        for package in self.conda:
            short = f"#{package.md5}" if package.md5 else f"#sha256:{package.sha256}" if package.sha256 else ""
            lines += [f"# sha256: {package.sha256} {package.file}"] if package.md5 and package.sha256 else []
            lines += [f"{package.url}{short}"]
        for pip in self.pip:
            said = "" if PINNED.match(pip.line) or not pip.version else f"  # {pip.name}=={pip.version}"
            lines += [f"# pip: {pip.line}{said}"]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Lock:
        """The value that `dataclasses.asdict` took apart."""
        return cls(
            platform=document["platform"],
            conda=tuple(LockedPackage(**package) for package in document["conda"]),
            pip=tuple(LockedPip(**package) for package in document["pip"]),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return asdict(self)


def conda_platform() -> str:
    """What conda calls this machine."""
    here = f"{sys.platform}-{platform.machine()}"
    return _PLATFORMS.get(here, here)


def direct_url(url: str) -> str:
    """A direct requirement's URL without user and password (the user of ssh is none)."""
    vcs, plus, rest = url.partition("+") if re.match(r"\w+\+", url) else ("", "", url)
    return f"{vcs}{plus}{public_url(rest)}"
