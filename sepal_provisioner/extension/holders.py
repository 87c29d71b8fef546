"""How many kernels run from a prefix, seen without writing anything."""

from __future__ import annotations

import os
from collections import Counter
from functools import cached_property
from pathlib import Path

from .. import locks

PROC_LOCKS = Path("/proc/locks")


class Holders:
    """The shared locks of this machine, counted at one moment, by file.

    A kernel holds one on its prefix's marker for as long as it lives.
    """

    def __init__(self, table: Path = PROC_LOCKS) -> None:
        self._table = table

    @cached_property
    def _counts(self) -> Counter[tuple[int, int, int]]:
        """Read when somebody holds anything: for this table Linux keeps whoever reads it waiting for milliseconds."""
        try:
            return _count(self._table.read_text())
        except OSError:
            return Counter()

    def running(self, marker: Path) -> int | None:
        """How many hold it; None where somebody does and nobody can tell how many.

        The system's table leaves out what other machines hold, what began in another container, and, in a container,
        kernels that outlive the server which started them.
        """
        try:
            info = marker.stat()
        except OSError:
            return 0
        if not locks.shared(marker):
            return 0
        return self._counts[(os.major(info.st_dev), os.minor(info.st_dev), info.st_ino)] or None


def _count(text: str) -> Counter[tuple[int, int, int]]:
    """Shared locks by (major, minor, inode): `1: FLOCK  ADVISORY  READ 1234 fd:00:131090 0 EOF`."""
    found: Counter[tuple[int, int, int]] = Counter()
    for line in text.splitlines():
        words = line.split()
        if len(words) < 6 or words[1:4] != ["FLOCK", "ADVISORY", "READ"]:
            continue
        try:
            major, minor, inode = words[5].split(":")
            found[(int(major, 16), int(minor, 16), int(inode))] += 1
        except ValueError:
            continue
    return found
