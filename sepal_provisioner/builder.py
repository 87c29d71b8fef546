"""The build: a process of its own that makes one environment, from its lock to its marker.

    python -m sepal_provisioner.builder <environments/venv-x/<fingerprint>.request.json>

Look, lock, look again, clean up what a killed build left, build where the prefix will live, prove that it works, and
write the marker last. Everything the build does goes into its log, which begins with the command above.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from . import __version__, audit, bytecode, engines, locks, process
from .activation import record_activation
from .catalog import text_without_credentials
from .contents import installed_packages
from .engines.job import explain, shown
from .envfile import fingerprint_of, read_environment_file
from .environ import build_environment, launch_environment, look
from .errors import BuildError, CancelledBuildError, ChangedError, NoSpaceError, SepalError
from .files import human_size, make_folder, open_to_all, set_umask, store_error, sync_file_system, tree_size, write_new
from .generation import Generation, Record
from .index import Kernel
from .policy import check_file, check_pinned
from .probes import run_probes
from .progress import Phase, Reporter, read_progress
from .provenance import write_lock
from .request import Request, command
from .settings import Sepal
from .store import BYTECODE, Store
from .temporary import TemporaryFolder
from .trust import Trust
from .users import current_user

OVERTIME = 60  # seconds beyond its time limit that a build gets to end by itself
LOCK_SECONDS = 1  # many start at once where many launch: all but one end, and whoever started them waits without them


def build(request: Request) -> Generation:
    """Build what is asked for, or return what is already there. Raises BusyError while somebody else builds it, and any
    other SepalError, which is then also in the progress."""
    store, kernel = Store(request.store), request.kernel
    lock = store.beside(kernel.name, kernel.fingerprint, "lock")
    with locks.exclusive(lock, timeout=LOCK_SECONDS, waiting_for=f"Somebody else builds {kernel.name}") as held:
        ready = store.observe(kernel.name, kernel.fingerprint).ready
        if ready and not request.force:
            return ready
        path = store.beside(kernel.name, kernel.fingerprint, "progress.json")
        last = read_progress(path)
        reporter = Reporter(
            path,
            kernel.name,
            kernel.fingerprint,
            previous=_previous_seconds(store, kernel),
            attempt=last.attempt + 1 if last and (last.error or not last.ended) else 1,
        )
        reporter.begin()
        generation: Generation | None = None
        facts = {"kernel": kernel.name, "commit": kernel.commit, "repository": kernel.repository}
        facts |= {"fingerprint": kernel.fingerprint, "forced": "yes" if request.force else ""}
        try:
            store.remove_leftovers(kernel.name, kernel.fingerprint)
            check_before(request)
            generation = store.next_generation(kernel.name, kernel.fingerprint)
            with _packages_kept(store), _open_log(store.beside(kernel.name, kernel.fingerprint, "log")) as log:
                _build(request, generation, reporter, log, held)
        except BaseException as error:
            failure = _as_failure(error)
            if generation is not None:
                shutil.rmtree(generation.path, ignore_errors=True)  # first: it may be what fills the disk
            # Before its end: whoever sees that end finds the line that tells of it.
            audit.note(store.root, "build", failure.code, message=failure.message, **facts)
            with contextlib.suppress(SepalError):
                reporter.end(failure)
            if isinstance(error, Exception):
                raise failure from error
            raise
        store.link_current(generation)
        seconds = round(time.time() - reporter.progress.started, 1)
        audit.note(store.root, "build", "ok", prefix=str(generation.path), seconds=seconds, **facts)
        reporter.end()
        return generation


@contextlib.contextmanager
def _packages_kept(store: Store) -> Iterator[None]:
    """While a build runs, nobody removes packages from the cache that it fills. Waits for who does so just now."""
    with contextlib.suppress(FileExistsError):
        write_new(store.packages_lock)
    descriptor = locks.share(store.packages_lock, timeout=60)
    try:
        yield
    finally:
        os.close(descriptor)


def check_before(request: Request) -> None:
    """What must hold before anything is built. Raises PolicyError, NotTrustedError or NoSpaceError."""
    settings, kernel, store = request.settings, request.kernel, Store(request.store)
    check_pinned(kernel, settings)
    Trust.of(settings).check_below(store.root, (store.folder(kernel.name).parent, store.folder(kernel.name)))
    # A stranger's checkout could hold any build script.
    Trust.of(settings).check_below(request.checkout, (request.checkout / kernel.environment_file,))
    check_space(store.root, settings)


def check_space(root: Path, settings: Sepal) -> None:
    """Raise NoSpaceError, with figures, where less than `c.Sepal.min_free_space` is free."""
    free = shutil.disk_usage(root).free
    if free < settings.min_free_space:
        raise NoSpaceError(
            f"{human_size(free)} are free in {root}, and a build needs {human_size(settings.min_free_space)} "
            "(c.Sepal.min_free_space). `jupyter sepal prune --dry-run` shows what can be removed."
        )


def _build(request: Request, generation: Generation, reporter: Reporter, log: _Log, lock: int) -> None:
    """Every step from the environment file to the marker."""
    settings, kernel, prefix = request.settings, request.kernel, generation.path
    deadline = time.monotonic() + settings.build_timeout
    log.line(f"$ {shown(command(Store(request.store).beside(kernel.name, kernel.fingerprint, 'request.json')))}")
    log.line(f"# sepal_provisioner {__version__}, {kernel.name} at {kernel.commit or 'no commit'}")
    file = read_environment_file(request.checkout, kernel.environment_file)
    if fingerprint_of(file, settings) != kernel.fingerprint:
        raise ChangedError(
            f"{kernel.environment_file} changed while this build was waiting. Run `jupyter sepal sync` and start again."
        )
    check_file(file, request.checkout, settings)
    for problem in file.warnings:
        log.line(f"# {file.path}: {problem}")
    engine = engines.choose(file, settings)
    base = build_environment(os.environ, settings.build_variables)
    version = engines.ENGINES[engine].version(settings)
    log.line(f"# engine: {engine} {version}, prefix: {prefix}")
    make_folder(prefix.parent)
    with TemporaryFolder("build") as temporary:  # what installers leave there goes with it
        job = engines.Job(
            prefix=prefix,
            file=file,
            folder=(request.checkout / file.path).parent,
            cache=Store(request.store).packages,
            settings=settings,
            reporter=reporter,
            env={**base, "TMPDIR": str(temporary)},
            log=log.line,
            deadline=lambda: max(1.0, deadline - time.monotonic()),
            keep=(lock,),
        )
        engines.ENGINES[engine].create(job)
        _compile(job)
    reporter.phase(Phase.VERIFY)
    record = prove(generation, kernel, f"{engine} {version}", dict(file.variables), base, log.line)
    write_lock(prefix, settings.channel_mirrors, request.checkout, file.lock)
    _publish(generation, record, reporter, log)


def prove(
    generation: Generation,
    kernel: Kernel,
    engine: str,
    variables: Mapping[str, str],
    base: Mapping[str, str],
    log: Callable[[str], None],
) -> Record:
    """Record what a prefix's activation sets, start a kernel in it, and run the probes. Raises ProbeError."""
    prefix = generation.path
    activation, path = record_activation(prefix, base)
    record = Record(
        name=kernel.name,
        fingerprint=kernel.fingerprint,
        engine=engine,
        conda=(prefix / "conda-meta").is_dir(),
        commit=kernel.commit,
        repository=kernel.repository,
        environment_file=kernel.environment_file,
        activation=activation,
        path=path,
        variables=variables,
        user=current_user(),
        host=socket.gethostname(),
    )
    facts = look(prefix, os.environ, record.facts(prefix))
    run_probes(generation.python, prefix, launch_environment(facts, os.environ), log)
    return record


def _publish(generation: Generation, record: Record, reporter: Reporter, log: _Log) -> None:
    built = time.time()
    finished = {
        "built": built,
        "seconds": round(built - reporter.progress.started, 3),
        "size": tree_size(generation.path),
        "durations": reporter.durations(),
        "packages": installed_packages(generation.path),
    }
    open_to_all(generation.path)
    log.line(f"# ready after {finished['seconds']} s, {finished['size']} bytes")
    log.copy(generation.marker.with_name("build.log"))
    sync_file_system(generation.path)
    generation.publish(Record(**{**asdict(record), **finished}))


def _compile(job: engines.Job) -> None:
    """Byte-compile the prefix: on a read-only store Python could never do it later."""
    done = 0

    def on_line(line: str) -> None:
        nonlocal done
        if line.startswith("to compile "):
            job.reporter.phase(Phase.COMPILE, int(line.rsplit(maxsplit=1)[-1]))
        elif line.startswith("compiled "):
            done += int(line.rsplit(maxsplit=1)[-1])
            job.reporter.update(done=done)

    command = [job.python, "-I", "-S", bytecode.__file__, str(job.prefix / "lib"), str(job.cache / BYTECODE)]
    result = job.run(command, on_line, cwd=job.prefix, logged=False)
    if result.code:
        raise explain("The environment's modules could not be byte-compiled.", result.stdout)


def _previous_seconds(store: Store, kernel: Kernel) -> float:
    """How long the last successful build of this kernel took, 0 when there was none."""
    for generation in store.generations(kernel.name):
        if generation.marker.is_file():
            with contextlib.suppress(OSError, ValueError):
                return generation.record().seconds
    return 0


def _as_failure(error: BaseException) -> SepalError:
    if isinstance(error, SepalError):
        return error
    if isinstance(error, TimeoutError):
        return BuildError("The build took longer than c.Sepal.build_timeout allows.")
    if isinstance(error, OSError):
        return store_error(error, Path(error.filename or "the store"))
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return CancelledBuildError("The build was cancelled.")
    return explain("The build ended with an unexpected error; its log has the details.", _traceback(error))


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


class _Log:
    """The build's log: lines of both streams of every command, and notes of our own that begin with `#`."""

    def __init__(self, stream: IO[str], path: Path) -> None:
        self._stream, self._path = stream, path

    def line(self, text: str) -> None:
        """Append a line. A full disk must not hide what the build itself says about it."""
        with contextlib.suppress(OSError):
            self._stream.write(text_without_credentials(text) + "\n")
            self._stream.flush()

    def copy(self, target: Path) -> None:
        """Keep the log with the prefix that it belongs to."""
        make_folder(target.parent)
        shutil.copyfile(self._path, target)


@contextlib.contextmanager
def _open_log(path: Path) -> Iterator[_Log]:
    try:
        stream = path.open("w", encoding="utf-8", errors="replace")
    except OSError as error:
        raise store_error(error, path) from error
    with contextlib.closing(stream):
        yield _Log(stream, path)


def main(arguments: list[str]) -> int:
    """Do one build; the exit code is the failure's. Its progress file tells everybody else."""
    import signal

    def stop(signum: int, frame: Any) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
    try:
        request = Request.read(Path(arguments[0]))
        settings = request.settings
        set_umask(request.store)
        # A hang in an engine's own threads, which no exception reaches, ends as well, with all stacks in the log.
        faulthandler.dump_traceback_later(min(settings.build_timeout + OVERTIME, 1e9), exit=True)
        process.stand_back(settings.build_niceness, settings.build_memory, settings.build_processes)
        build(request)
    except SepalError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    code = 1
    try:
        code = main(sys.argv[1:])
    except BaseException:  # noqa: BLE001 - the one edge of this process: whatever it is goes into its log
        import traceback

        traceback.print_exc()
    finally:
        # py-rattler can crash the interpreter while it shuts down; everything that matters is written.
        sys.stderr.flush()
        os._exit(code)
