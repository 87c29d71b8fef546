"""Locks on files, kept by the operating system: a killed process leaves none behind.

Two kinds. `exclusive` is for whoever writes (a build, a sync). `share` is taken on a prefix's marker by every kernel
that runs from it, and `alone` by who removes the prefix; all are flock(2), so that one excludes the other, and a shared
one works on a read-only mount.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import BusyError, StoreError
from .files import file_mode, make_folder, read_json, store_error
from .users import current_user

LOOKED_AT = 0.3  # seconds for which somebody may hold a marker only to see whether it is in use


def shared(path: Path) -> bool:
    """Whether anybody holds a lock of either kind on `path`. What is not there, nobody holds."""
    return _refused(path, fcntl.LOCK_EX)


def held(path: Path) -> bool:
    """Whether somebody holds the exclusive lock on `path`. Needs no right to write."""
    return _refused(path, fcntl.LOCK_SH)


def wait_until_free(path: Path) -> None:
    """Block until nobody holds the exclusive lock on `path`; the system wakes us. Raises OSError: it is not there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _refused(path: Path, kind: int) -> bool:
    """Whether a lock of this kind is not to be had on a file now; it is given back at once."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def exclusive(path: Path, *, timeout: float, waiting_for: str) -> Iterator[int]:
    """Hold the lock on `path`; yields its descriptor, which children may inherit to hold the lock as well.

    `timeout` is in seconds, 0 to try once. Raises BusyError, with `waiting_for` and the holder in its text, and
    StoreError where the file system has no locks: a lock file without the operating system behind it would outlive a
    killed build.
    """
    descriptors: list[int] = []
    try:
        make_folder(path.parent)
        lock = FileLock(
            path,
            timeout=timeout,
            mode=file_mode(path.parent),
            fallback_to_soft=False,
            thread_local=False,
            on_acquired=descriptors.append,
        )
        lock.acquire(poll_interval=0.1)
    except Timeout:
        raise BusyError(f"{waiting_for}: {holder(path)} (lock: {path}).") from None
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise StoreError(
                f"The file system of {path.parent} has no file locks. Set c.Sepal.store to one that has."
            ) from error
        raise store_error(error, path) from error
    try:
        _sign(descriptors[-1])
        yield descriptors[-1]
    finally:
        lock.release()


@contextlib.contextmanager
def alone(path: Path, *, waiting_for: str) -> Iterator[None]:
    """Hold the lock on a file whose content is its own, such as a prefix's marker, when nobody shares it.

    filelock's files may lose what is in them. Raises BusyError, with `waiting_for` in its text, and OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{waiting_for} (lock: {path}).") from None
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> str:
    """Who holds the lock on `path`, as its holder wrote it there, for people."""
    try:
        document = read_json(path, 4096)
        user, host, pid, since = (str(document[name])[:100] for name in ("user", "host", "pid", "since"))
    except (OSError, ValueError, KeyError, TypeError):
        return "held by somebody who did not sign it"
    return f"held by {user} on {host}, process {pid}, since {since}"


def _sign(descriptor: int) -> None:
    """Write into a lock file who holds it. The lock is what counts: a full disk is no reason to fail here."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    signature = {"user": current_user(), "host": socket.gethostname(), "pid": os.getpid(), "since": since}
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(signature).encode(), 0)


def share(path: Path, timeout: float = LOOKED_AT) -> int:
    """Take the shared lock on a file and return its descriptor; the lock lasts until the last copy is closed.

    `timeout` is in seconds. Raises OSError: the file is gone, somebody is removing it, or the file system has no locks.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
