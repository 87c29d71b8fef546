"""Temporary folders of our own. What a killed process could not remove, the next one of the same user does."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from . import locks
from .errors import BusyError
from .files import remove_tree

SHORT = 75  # bytes of the path above a folder for sockets, whose paths may have 107
LOCK = ".lock"


class TemporaryFolder(contextlib.AbstractContextManager[Path]):
    """A new folder in `TMPDIR` that only this user can enter, gone with `remove` or with the end of its block.

    One for `sockets` is in /tmp where the path would be too long for them. Raises OSError: the disk is full, or nobody
    may write there.
    """

    def __init__(self, purpose: str, *, sockets: bool = False) -> None:
        root = tempfile.gettempdir()
        if sockets and len(os.fsencode(root)) > SHORT:
            root = "/tmp"  # noqa: S108 - mkdtemp makes our own in it
        _remove_orphans(Path(root))
        self.path = Path(tempfile.mkdtemp(prefix=f"sepal-{purpose}-", dir=root))
        self._lock: int | None = None
        with contextlib.suppress(OSError):  # a file system without locks: nobody will take it for an orphan
            new = self.path / ".new"
            new.touch()
            self._lock = locks.share(new)
            new.rename(self.path / LOCK)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it with all that is in it; what can't be removed stays."""
        remove_tree(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_orphans(root: Path) -> None:
    """Remove folders whose processes are gone: nobody holds their lock."""
    for folder in root.glob("sepal-*-*"):
        with contextlib.suppress(OSError, BusyError):
            if folder.lstat().st_uid == os.getuid():
                with locks.alone(folder / LOCK, waiting_for=""):
                    remove_tree(folder)
