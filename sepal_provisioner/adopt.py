"""An environment that something else built becomes one of the store's, where it lies: moving here rebuilds nothing.

The prefix stays in its place, since prefixes embed their path; the store gets a link to it, and the prefix a marker.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from jupyter_core.paths import jupyter_path

from . import audit, locks
from .builder import prove
from .contents import installed_packages
from .envfile import read_environment_file
from .environ import build_environment
from .errors import ChangedError, SettingsError
from .files import make_folder, tree_size
from .generation import Generation, Record
from .index import Kernel
from .process import run
from .provenance import write_lock
from .settings import Sepal
from .store import Store, make_store

LOCK_SECONDS = 10


def places(name: str) -> Iterable[Path]:
    """Where the platform's own script puts a kernel's environment: `<data folder>/kernels/<name>/venv`."""
    for folder in jupyter_path("kernels"):
        for spelling in _spellings(Path(folder), name):
            if (spelling / "venv" / "bin" / "python").exists() and not (spelling / "venv").is_symlink():
                yield spelling / "venv"


def _spellings(folder: Path, name: str) -> Iterable[Path]:
    """The kernel's folder in any case: the script keeps a repository's capital letters."""
    with contextlib.suppress(OSError):
        yield from sorted(path for path in folder.iterdir() if path.name.lower() == name)


def adopt(
    kernel: Kernel,
    prefix: Path,
    settings: Sepal,
    *,
    force: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Generation:
    """Make an existing prefix the kernel's ready environment, once it passed the probes that a build must pass.

    Raises ChangedError for one that is older than the repository's commit (unless `force`), SettingsError for what is
    no environment, ProbeError, and StoreError.
    """
    store = make_store(settings)
    prefix = prefix.expanduser().absolute()
    if not (prefix / "bin" / "python").exists():
        raise SettingsError(f"{prefix} is no environment: it has no bin/python.")
    checkout = store.apps / kernel.checkout
    if not force and built(prefix) < (committed := _committed(checkout)):
        raise ChangedError(
            f"{prefix} is older than the newest commit of {kernel.repository} "
            f"({time.strftime('%Y-%m-%d', time.gmtime(committed))}), and may lack what that asks for. "
            f"Build it: jupyter sepal build {kernel.name}. Or adopt it as it is: --force."
        )
    lock = store.beside(kernel.name, kernel.fingerprint, "lock")
    with locks.exclusive(lock, timeout=LOCK_SECONDS, waiting_for=f"Somebody builds {kernel.name}"):
        if ready := store.observe(kernel.name, kernel.fingerprint).ready:
            return ready
        store.remove_leftovers(kernel.name, kernel.fingerprint)
        generation = store.next_generation(kernel.name, kernel.fingerprint)
        make_folder(generation.path.parent)
        generation.path.symlink_to(prefix)
        try:
            _publish(store, generation, kernel, checkout, settings, log)
        except BaseException:
            generation.path.unlink()
            raise
        store.link_current(generation)
        audit.note(store.root, "adopt", "ok", kernel=kernel.name, commit=kernel.commit, prefix=str(prefix))
        return generation


def _publish(
    store: Store, generation: Generation, kernel: Kernel, checkout: Path, settings: Sepal, log: Callable[[str], None]
) -> None:
    file = read_environment_file(checkout, kernel.environment_file)
    base = build_environment(os.environ, settings.build_variables)
    record = prove(generation, kernel, "adopted", dict(file.variables), base, log)
    write_lock(generation.path, settings.channel_mirrors, checkout, None)
    facts = {
        "built": built(generation.path),
        "size": tree_size(generation.path.resolve()),
        "packages": installed_packages(generation.path),
    }
    generation.publish(Record(**{**asdict(record), **facts}))


def built(prefix: Path) -> float:
    """When a prefix was last installed into, by what conda and venv leave in it; seconds since the epoch."""
    for witness in ("conda-meta/history", "pyvenv.cfg", "bin/python"):
        with contextlib.suppress(OSError):
            return (prefix / witness).lstat().st_mtime
    return 0


def _committed(checkout: Path) -> float:
    """When the checked-out commit was made; 0 when git can't say."""
    done = run(["git", "log", "-1", "--format=%ct"], cwd=checkout, timeout=30)
    return float(done.stdout) if done.code == 0 and done.stdout.strip().isdigit() else 0
