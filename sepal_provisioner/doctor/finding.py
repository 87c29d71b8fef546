"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How much a finding matters: a problem keeps something from working, a warning may."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What was found, why it matters, and what helps; the last two are empty where all is well."""

    check: str
    level: Level
    what: str
    why: str = ""
    remedy: str = ""
