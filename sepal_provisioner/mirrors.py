"""The URLs of conda channels, and of their mirrors: the same package has one public URL at every site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from .catalog import without_credentials

# What conda means by "defaults" on Linux and macOS.
DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")

_HOST = "https://conda.anaconda.org"
_TOKEN = re.compile(r"\A(https?://[^/]+)/t/[^/]+(?=/)")  # anaconda.org's and Quetz's way of writing a password


def channel_urls(channel: str) -> tuple[str, ...]:
    """Where a channel is, by its name or URL as environment files have it."""
    if channel == "defaults":
        return DEFAULTS
    return (public_url(channel).rstrip("/") if "://" in channel else f"{_HOST}/{channel.strip('/')}",)


def public_url(url: str) -> str:
    """A channel's or package's URL without user, password and token."""
    return _TOKEN.sub(r"\1", without_credentials(url))


def canonical(url: str, mirrors: Mapping[str, str]) -> str:
    """The public URL of a package that may have come from a mirror: what a lock says, so that it holds elsewhere.

    `mirrors` is `c.Sepal.channel_mirrors`. What came from no mirror keeps its URL, without credentials.
    """
    clean = public_url(url)
    base, place = _parts(clean)
    for channel, target in mirrors.items():
        if target and unquote(public_url(target)).rstrip("/") == base:
            return f"{channel_urls(channel)[0]}/{place}"
    return clean


def redirected(url: str, mirrors: Mapping[str, str]) -> str:
    """Where this site fetches a package with a public URL from; "" when it leaves the package's channel out."""
    base, place = _parts(url)
    for channel, target in mirrors.items():
        if base in (unquote(known) for known in channel_urls(channel)):
            return f"{target.rstrip('/')}/{place}" if target else ""
    return url


def channel_of(url: str) -> str:
    """The channel's URL in a package's: all but the platform and the file name."""
    return url.rsplit("/", 2)[0]


def _parts(url: str) -> tuple[str, str]:
    """(the channel's URL, unquoted to be compared; `noarch/toml-0.10.2-pyhd8ed1ab_1.conda` as it stands)."""
    base = channel_of(url)
    return unquote(base), url[len(base) + 1 :]
