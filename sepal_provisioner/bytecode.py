"""Byte-compile a prefix, with the prefix's own Python: a read-only store never recompiles.

    <prefix>/bin/python -I -S <this file> <prefix>/lib <cache>

It stands alone, because it runs on whatever Python an environment has (3.7 or newer). `python -m compileall -j 0` does
the same in twice the time. Prefixes of one store have most of their modules in common: what was compiled for one is
linked into the next, which Python allows, since it corrects the path in bytecode when it loads it.

It prints `to compile <n>`, and then `compiled <n>` after every few files.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import py_compile
import sys

SKIPPED = {"__pycache__", "test", "tests", "lib2to3"}  # not imported by anybody, or not meant to compile
EVERY = 50


def lacking(folder: str) -> list[tuple[int, str]]:
    """Every module below a folder without bytecode that Python would take, as (size, path), the largest first."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(place, name)
                try:
                    state = os.stat(path)
                except OSError:
                    continue
                if not compiled(path, state):
                    found.append((state.st_size, path))
    return sorted(found, reverse=True)


def compiled(path: str, state: os.stat_result) -> bool:
    """Whether a module's bytecode is there and current, by the header that PEP 552 defines."""
    try:
        with open(importlib.util.cache_from_source(path), "rb") as stream:
            header = stream.read(16)
    except OSError:
        return False
    if len(header) < 16 or header[:4] != importlib.util.MAGIC_NUMBER:
        return False
    if header[4:8] != bytes(4):  # checked by hash, or not at all
        return True
    modified, size = int.from_bytes(header[8:12], "little"), int.from_bytes(header[12:16], "little")
    return modified == int(state.st_mtime) & 0xFFFFFFFF and size == state.st_size & 0xFFFFFFFF


def compile_file(path: str, cache: str) -> None:
    """Link a module's bytecode from the cache, or compile it and put it there.

    Raises OSError and what py_compile does.
    """
    target = importlib.util.cache_from_source(path)
    with open(path, "rb") as stream:
        name = hashlib.sha256(stream.read()).hexdigest()
    # The header of the bytecode says when its source was changed: the same content of another time is another file.
    kept = os.path.join(cache, sys.implementation.cache_tag, name[:2], f"{name}-{int(os.stat(path).st_mtime)}.pyc")
    temporary = f"{target}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.link(kept, temporary)
        os.replace(temporary, target)
        return
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
    py_compile.compile(path, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    try:
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        os.link(target, kept)
    except (
        OSError
    ):  # another build was first, or the file system has no links: the prefix has its bytecode all the same
        pass


def compile_files(paths: list[str], cache: str) -> bool:
    """Compile files, and say how far it is. Those that don't compile (templates, Python 2) are nobody's fault.

    False when the disk is full.
    """
    done = 0
    for path in paths:
        try:
            compile_file(path, cache)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                os.write(2, f"{path}: {os.strerror(error.errno)}\n".encode(errors="replace"))
                return False
        except (py_compile.PyCompileError, ValueError, RecursionError, MemoryError):
            pass
        done += 1
        if done == EVERY or path == paths[-1]:
            os.write(1, b"compiled %d\n" % done)  # short enough never to mix with another process's line
            done = 0
    return True


def main(folder: str, cache: str) -> int:
    """Compile everything below a folder, on the processors that this process may use; 1 when the disk is full."""
    paths = [path for _, path in lacking(folder)]
    os.write(1, b"to compile %d\n" % len(paths))
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = max(1, min(processors, len(paths) // EVERY))
    children = []
    for number in range(1, shares):
        child = os.fork()
        if not child:
            os._exit(0 if compile_files(paths[number::shares], cache) else 1)
        children.append(child)
    whole = compile_files(paths[0::shares], cache)
    for child in children:
        whole = os.waitpid(child, 0)[1] == 0 and whole
    return 0 if whole else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2]))
