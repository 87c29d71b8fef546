"""Locks on files, kept by the operating system: a killed process leaves none behind.

Two kinds. `exclusive` is for whoever writes (a build, a sync). `share` is taken on a prefix's marker by every kernel
that runs from it; both are flock(2), so that one excludes the other, and a shared one works on a read-only mount.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import BusyError, StoreError
from .files import store_error


@contextlib.contextmanager
def exclusive(path: Path, *, timeout: float, waiting_for: str) -> Iterator[int]:
    """Hold the lock on `path`; yields its descriptor, which children may inherit to hold the lock as well.

    `timeout` is in seconds, 0 to try once. Raises BusyError, with `waiting_for` in its text, and StoreError where the
    file system has no locks: a lock file without the kernel behind it would outlive a killed build.
    """
    descriptors: list[int] = []
    lock = FileLock(path, timeout=timeout, fallback_to_soft=False, thread_local=False, on_acquired=descriptors.append)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(poll_interval=0.1)
    except Timeout:
        raise BusyError(f"{waiting_for} (lock: {path}).") from None
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise StoreError(
                f"The file system of {path.parent} has no file locks. Set c.Sepal.store to one that has."
            ) from error
        raise store_error(error, path) from error
    try:
        yield descriptors[-1]
    finally:
        lock.release()


def held(path: Path) -> bool:
    """Whether somebody holds the exclusive lock on `path`. Needs no right to write."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    finally:
        os.close(descriptor)
    return False


def share(path: Path) -> int:
    """Take the shared lock on a file and return its descriptor; the lock lasts until the last copy is closed.

    Raises OSError: the file is gone, somebody is removing it, or the file system has no locks.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
