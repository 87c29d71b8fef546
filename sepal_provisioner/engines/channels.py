"""Which channels and match specs an engine gets: redirected to mirrors, and with what every kernel needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..envfile import EnvironmentFile

DEFAULT_CHANNELS = ("conda-forge",)  # for a file that names none
ALWAYS = ("ipykernel", "pip")  # pip, so that `!pip list` in a cell is the kernel's own
_NOT_A_CHANNEL = "nodefaults"


@dataclass(frozen=True)
class Request:
    """What is solved: channels by name or URL in order of priority, and match specs."""

    channels: tuple[str, ...]
    specs: tuple[str, ...]


def conda_request(file: EnvironmentFile, mirrors: Mapping[str, str]) -> Request:
    """The channels and specs of an environment file, with `c.Sepal.channel_mirrors` applied.

    `ipykernel` goes into the same solve when the file does not list it: no second resolver changes what the first one
    chose.
    """
    named = file.channels or DEFAULT_CHANNELS
    channels = [target for name in named if name != _NOT_A_CHANNEL and (target := _target(name, mirrors))]
    own = [name for name in ALWAYS if name not in file.names()]
    specs = [_redirected(spec, mirrors) for spec in (*file.dependencies, *own)]
    return Request(tuple(dict.fromkeys(channels)), tuple(specs))


def _target(channel: str, mirrors: Mapping[str, str]) -> str:
    return mirrors.get(channel, mirrors.get(channel.rstrip("/"), channel)).rstrip("/")


def _redirected(spec: str, mirrors: Mapping[str, str]) -> str:
    channel, separator, rest = spec.partition("::")
    if not separator:
        return spec
    target = _target(channel, mirrors)
    return f"{target}::{rest}" if target else rest
