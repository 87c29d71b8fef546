"""Sync: catalogs and repositories become the index.

    python -m sepal_provisioner.sync <settings.json>      what a server runs in the background

Every repository has its own time limit, and the index is written again whenever some are done: a repository that
hangs delays only itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from . import locks
from .catalog import App, Problem, first_of_each_name, without_credentials
from .envfile import find_environment_file, fingerprint_of, read_environment_file
from .errors import BusyError, EnvironmentFileError, SepalError
from .files import read_json, set_umask, write_json
from .git import Git, Source
from .index import CatalogState, Index, Kernel, write_index
from .logos import copy_logos
from .policy import check_file, check_repository
from .settings import Sepal
from .sources import fetch_catalog
from .store import Store, make_store

WRITE_EVERY = 1.0  # seconds
PROBLEMS_LIMIT = 1_000
PROBLEM_TEXT = 2_000  # characters


@dataclass(frozen=True)
class Outcome:
    """What a sync found for one application. No kernel and no problem: the repository ships no environment file."""

    app: App
    kernel: Kernel | None = None
    problems: tuple[Problem, ...] = ()
    changed: bool = False


@dataclass(frozen=True)
class Report:
    """A finished sync: the index that it wrote, and which kernels are new, changed or gone."""

    index: Index
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    seconds: float


def sync(
    settings: Sepal,
    on_done: Callable[[Outcome, int, int], None] = lambda outcome, done, total: None,
    *,
    wait_for: float = 600,
) -> Report:
    """Bring the store's checkouts and index up to date with the catalogs.

    `on_done` is called after each application with (outcome, how many are done, of how many). Raises StoreError when
    the store cannot be written and BusyError when another sync holds it for longer than `wait_for` seconds; whatever
    else goes wrong is in the report.
    """
    began = time.monotonic()
    store = make_store(settings)
    waiting = f"Another sync of {store.root} is running"
    with locks.exclusive(store.sync_lock, timeout=wait_for, waiting_for=waiting) as lock:
        before = _last_index(store)
        states, named, problems = _read_catalogs(store, settings)
        apps = [(source, app) for source, app in named if not app.skip]
        skipped = tuple(app.kernel_name for _, app in named if app.skip)
        unread = {state.source for state in states if state.error and not state.fetched}
        merge = _Merge(before, apps, unread, states, problems, skipped)
        _update_all(store, settings, merge, on_done, lock)
        write_index(store.index_path, merge.index())
    old = {kernel.name: kernel for kernel in before.kernels}
    new = {kernel.name: kernel for kernel in merge.index().kernels}
    return Report(
        index=merge.index(),
        added=tuple(sorted(new.keys() - old.keys())),
        changed=tuple(sorted(n for n in new.keys() & old.keys() if new[n].fingerprint != old[n].fingerprint)),
        removed=tuple(sorted(old.keys() - new.keys())),
        seconds=time.monotonic() - began,
    )


class _Merge:
    """What the index is while applications are still being updated: a kernel's old entry until the new one is there."""

    def __init__(
        self,
        before: Index,
        apps: list[tuple[str, App]],
        unread: set[str],
        states: list[CatalogState],
        problems: list[Problem],
        skipped: tuple[str, ...],
    ) -> None:
        self.apps = apps
        self.before = {kernel.name: kernel for kernel in before.kernels}
        self._unread = unread
        self._states, self._problems, self._skipped = states, problems, skipped
        self._outcomes: dict[str, Outcome] = {}

    def add(self, outcome: Outcome) -> None:
        """Take the result of one application."""
        self._outcomes[outcome.app.kernel_name] = outcome

    def index(self) -> Index:
        """The index as of now."""
        kernels: list[Kernel] = []
        problems = list(self._problems)
        for _, app in self.apps:
            outcome = self._outcomes.get(app.kernel_name)
            kernel = outcome.kernel if outcome else self.before.get(app.kernel_name)
            problems += outcome.problems if outcome else ()
            kernels += [kernel] if kernel else []
        listed = {kernel.name for kernel in kernels} | {app.kernel_name for _, app in self.apps}
        # A catalog that can't be read and has no copy says nothing about its kernels: they stay.
        kernels += [k for k in self.before.values() if k.catalog in self._unread and k.name not in listed]
        return Index(time.time(), tuple(kernels), tuple(self._states), _bounded(problems), self._skipped)


def _bounded(problems: list[Problem]) -> tuple[Problem, ...]:
    """As many problems as somebody may want to read, none of them a book."""
    kept = [Problem(_cut(problem.place), _cut(problem.message)) for problem in problems[:PROBLEMS_LIMIT]]
    if more := len(problems) - len(kept):
        kept.append(Problem("index", f"{more} more problems are left out"))
    return tuple(kept)


def _cut(text: str) -> str:
    return text if len(text) <= PROBLEM_TEXT else f"{text[:PROBLEM_TEXT]}…"


def _read_catalogs(store: Store, settings: Sepal) -> tuple[list[CatalogState], list[tuple[str, App]], list[Problem]]:
    """All catalogs, read side by side: (how each went, the kernels of all with their catalog, the problems)."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        fetched = list(pool.map(lambda source: fetch_catalog(source, store, settings), settings.catalogs))
    states = [one.state for one in fetched]
    problems = [Problem(state.source, state.error) for state in states if state.error]
    origin: dict[int, str] = {}
    kernels: list[App] = []
    for one in fetched:
        for app in one.catalog.apps if one.catalog else ():
            if app.is_kernel:
                origin[id(app)] = one.state.source
                kernels.append(app)
        problems += [
            Problem(f"{one.state.source}: {problem.place}", problem.message)
            for problem in (one.catalog.problems if one.catalog else ())
        ]
    kept, repeated = first_of_each_name(kernels)
    return states, [(origin[id(app)], app) for app in kept], [*problems, *repeated]


def _update_all(
    store: Store, settings: Sepal, merge: _Merge, on_done: Callable[[Outcome, int, int], None], lock: int
) -> None:
    total = len(merge.apps)
    written = time.monotonic()
    pool = ThreadPoolExecutor(max_workers=settings.sync_jobs, thread_name_prefix="sepal-sync")
    try:
        pending: set[Future[Outcome]] = {
            pool.submit(_update, store, settings, source, app, merge.before.get(app.kernel_name), lock)
            for source, app in merge.apps
        }
        dirty = False
        while pending:
            done, pending = wait(pending, timeout=WRITE_EVERY, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                merge.add(outcome)
                on_done(outcome, total - len(pending), total)
            dirty = dirty or bool(done)
            if dirty and pending and time.monotonic() - written >= WRITE_EVERY:
                write_index(store.index_path, merge.index(), durable=False)
                written, dirty = time.monotonic(), False
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _update(store: Store, settings: Sepal, source: str, app: App, before: Kernel | None, lock: int) -> Outcome:
    """Update one checkout and look at it. Whatever goes wrong costs this application's update and nothing else."""
    checkout = store.apps / app.name
    problems: list[Problem] = []
    changed = False
    commit = before.commit if before else ""
    try:
        check_repository(app.repository, settings)
        git = Git(checkout, timeout=settings.git_timeout, schemes=settings.schemes, keep=(lock,))
        update = git.update(Source(app.repository, app.branch, app.commit), store.aside)
        commit, changed = update.commit, update.changed
        if update.set_aside:
            problems.append(Problem(app.id, f"local changes in {checkout} were set aside in {update.set_aside}"))
    except SepalError as error:
        problems.append(Problem(app.id, error.message))
        if before is None:
            return Outcome(app, None, tuple(problems))
        # The checkout is as it was, and so is what the index says of it.
        return Outcome(app, replace(_described(before, app, source), problem=error.message), tuple(problems))
    except OSError as error:
        problems.append(Problem(app.id, f"{checkout}: {error.strerror or error}"))
        return Outcome(app, before, tuple(problems))
    return _inspect(store, settings, source, app, before, commit, changed, problems)


def _inspect(
    store: Store,
    settings: Sepal,
    source: str,
    app: App,
    before: Kernel | None,
    commit: str,
    changed: bool,
    problems: list[Problem],
) -> Outcome:
    """A checkout at a commit becomes a kernel, or a problem."""
    checkout = store.apps / app.name
    path = find_environment_file(checkout)
    if path is None:
        return Outcome(app, None, tuple(problems), changed)
    try:
        file = read_environment_file(checkout, path)
    except (EnvironmentFileError, OSError) as error:
        words = error.message if isinstance(error, SepalError) else f"{path}: {error.strerror or error}"
        problems.append(Problem(app.id, words))
        kept = replace(_described(before, app, source), problem=words) if before else None
        return Outcome(app, kept, tuple(problems), changed)
    problems += [Problem(f"{app.id}: {path}: {warning.place}", warning.message) for warning in file.warnings]
    with _problem_of(app, problems):
        check_file(file, checkout, settings)
    resources = ""
    with suppress(SepalError):
        resources = app.kernel_name if copy_logos(checkout, store.resources / app.kernel_name) else ""
    kernel = Kernel(
        name=app.kernel_name,
        app=app.id,
        label=app.label,
        repository=without_credentials(app.repository),
        checkout=app.name,
        commit=commit,
        environment_file=path,
        fingerprint=fingerprint_of(file, settings),
        catalog=source,
        resources=resources,
        pinned=app.commit or "",
    )
    return Outcome(app, kernel, tuple(problems), changed)


@contextmanager
def _problem_of(app: App, problems: list[Problem]) -> Iterator[None]:
    """What a build will be refused for is a problem of the sync already."""
    try:
        yield
    except SepalError as error:
        problems.append(Problem(app.id, error.message))


def _described(kernel: Kernel, app: App, source: str) -> Kernel:
    """An old entry under what the catalog calls it now."""
    return replace(kernel, app=app.id, label=app.label, catalog=source, pinned=app.commit or "")


def _last_index(store: Store) -> Index:
    try:
        return store.index()
    except ValueError:
        return Index()


def command(settings: Sepal) -> list[str]:
    """What syncs once in a process of its own. The settings go through a file: mirrors may hold passwords."""
    path = Path(settings.store) / "sync.request.json"
    write_json(path, settings.to_json(), mode=0o600)
    return [sys.executable, "-m", "sepal_provisioner.sync", str(path)]


def main(arguments: list[str]) -> int:
    """Sync once; problems go to standard error, a line each."""
    try:
        settings = Sepal.from_json(read_json(Path(arguments[0])))
        set_umask(make_store(settings).root)
        report = sync(settings, wait_for=0)
    except BusyError:
        return 0  # somebody else does just this
    except (SepalError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code if isinstance(error, SepalError) else 1
    for problem in report.index.problems:
        sys.stderr.write(f"{problem}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
