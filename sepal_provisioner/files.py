"""Reading what others wrote, within bounds, and writing so that a reader never meets half a file."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from .errors import NoSpaceError, StoreError

PATH_LIMIT = 3_000  # bytes; the system's own is 4,096, with room for one more name
FULL_DISK = {28, 122}  # ENOSPC, EDQUOT


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises OSError, and ValueError when it is larger or no regular file (a FIFO would block for ever).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        with open(descriptor, "rb", closefd=False) as stream:
            data = stream.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise ValueError(f"it is larger than {human_size(limit)}")
    return data


def decode_json(data: bytes) -> Any:
    """A JSON document in UTF-8, with or without a byte order mark. Raises ValueError, which says where."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, limit: int = 16_000_000) -> Any:
    """The JSON document in a file. Raises OSError and ValueError."""
    return decode_json(read_bounded(path, limit))


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value from JSON can be calculated with: it may be NaN, or larger than any float."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


SHARED = stat.S_ISGID | stat.S_IWGRP  # of a store's folder: what is made below it belongs to the group, too


def make_folder(path: Path) -> None:
    """Make a folder and those above it, whatever the umask says: open to all, and below a folder that a group shares to
    that group's writing.

    Raises OSError.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(0o2775 if _shared(path.parent) else 0o755)


def file_mode(folder: Path) -> int:
    """The mode of a file in a folder: readable by all, and written by its owner, or by the group that shares the
    folder."""
    return 0o664 if _shared(folder) else 0o644


def _shared(folder: Path) -> bool:
    try:
        return folder.stat().st_mode & SHARED == SHARED
    except OSError:
        return False


def set_umask(root: Path) -> None:
    """Let this process and its children make files in a store that others can read, and its group write if it has one.

    For processes that do nothing but write a store.
    """
    existing = next((folder for folder in (root, *root.parents) if folder.is_dir()), root)
    os.umask(0o002 if _shared(existing) else 0o022)


def write_atomic(path: Path, data: str | bytes, mode: int | None = None, *, durable: bool = False) -> None:
    """Write a file beside `path` and rename it into place; `mode` counts whatever the umask, default `file_mode`.

    A `durable` one is on the disk, name and all, when this returns: it outlives a loss of power. Raises StoreError: a
    full disk and a folder that cannot be written are the two things that happen here.
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        make_folder(path.parent)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:
            os.fchmod(descriptor, file_mode(path.parent) if mode is None else mode)
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(descriptor)
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise store_error(error, path) from error
        raise


def write_new(path: Path) -> None:
    """Make an empty file. Raises FileExistsError and other OSErrors."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with contextlib.closing(os.fdopen(descriptor, "wb")):
        os.fchmod(descriptor, file_mode(path.parent))


def sync_folder(path: Path) -> None:
    """Bring a folder's names to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Bring all that was written to the file system of `path` to the disk.

    A marker must not outlive what it tells of.
    """
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            ctypes.CDLL(None).syncfs(descriptor)  # Linux; os.sync would wait for every disk of the machine
        finally:
            os.close(descriptor)


def write_json(path: Path, document: Any, mode: int | None = None, *, durable: bool = False) -> None:
    """Write a JSON document by rename."""
    text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    # Half of a surrogate pair (a file name that is no UTF-8 holds them) becomes `\ud800`, which is what JSON calls it.
    write_atomic(path, text.encode(errors="backslashreplace"), mode, durable=durable)


def store_error(error: OSError, path: Path) -> StoreError:
    """The answer to an OSError met while writing to a store."""
    if error.errno in FULL_DISK:
        return NoSpaceError(f"There is no space left for {path}. Free some, or set c.Sepal.store to a larger disk.")
    return StoreError(
        f"{path} can't be written: {error.strerror or error}. Set c.Sepal.store to a folder you may write."
    )


def resolve_inside(root: Path, relative: str) -> Path:
    """The real path of `relative` below `root`, links followed. Raises ValueError when it leads outside."""
    base = root.resolve()
    try:
        target = (base / relative).resolve()
    except RuntimeError:  # before Python 3.13
        raise ValueError(f"{relative[:200]} is a link that leads back to itself") from None
    if target != base and base not in target.parents:
        raise ValueError(f"{relative[:200]} leads out of the repository")
    return target


def writable(folder: Path) -> bool:
    """Whether this user may write into `folder`, or create it. Looks only; creates nothing."""
    for existing in (folder, *folder.parents):
        if os.path.exists(existing):  # Path.exists raises where the folder above may not be entered
            return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return False


def tree_size(folder: Path, seen: set[tuple[int, int]] | None = None) -> int:
    """Bytes on disk below `folder`, a file with several names counted once; links are not followed.

    `seen` are the files (device, inode) with several names that are counted already; those met here are added.
    """
    seen = set() if seen is None else seen
    total = 0
    pending = [os.fspath(folder)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                info = entry.stat(follow_symlinks=False)
                if info.st_nlink > 1:
                    if (info.st_dev, info.st_ino) in seen:
                        continue
                    seen.add((info.st_dev, info.st_ino))
                total += info.st_blocks * 512
    return total


def open_to_all(folder: Path) -> None:
    """Let everybody read what is below `folder`, and only those write it who share the folder; links are left alone.

    Packages bring modes of their own, and a private umask would hide a prefix from its users.
    """
    unwanted = stat.S_IWOTH | (0 if _shared(folder.parent) else stat.S_IWGRP)
    for path, info in _entries(folder):
        mode = stat.S_IMODE(info.st_mode)
        wanted = (mode | stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH) & ~unwanted
        if stat.S_ISDIR(info.st_mode) or mode & stat.S_IXUSR:
            wanted |= stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
        if wanted != mode:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.chmod(path, wanted)


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """A folder and every file and folder below it, without links."""
    yield os.fspath(folder), os.lstat(folder)
    pending = [os.fspath(folder)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    continue
                yield entry.path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def remove_tree(folder: Path) -> None:
    """Remove a folder, however deep it is; what can't be removed stays, and links are not followed.

    shutil's own recurses, and paths have a limit that folders below one another have not.
    """
    root = os.fspath(folder)
    pending = [] if os.path.islink(root) else [root]
    folders: list[str] = []
    while pending:
        current = pending.pop()
        folders.append(current)
        with contextlib.suppress(OSError), os.scandir(current) as entries:
            for entry in list(entries):
                with contextlib.suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)
                    elif len(os.fsencode(entry.path)) < PATH_LIMIT:
                        pending.append(entry.path)
                    else:
                        os.rename(entry.path, nearer := f"{root}/.{secrets.token_hex(8)}")
                        pending.append(nearer)
    for path in reversed(folders):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def human_size(size: float) -> str:
    """A size for people: `1.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_time(seconds: float) -> str:
    """A duration for people: `4 s`, `2 min 05 s`, `1 h 20 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
