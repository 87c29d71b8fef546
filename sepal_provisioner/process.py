"""The only module that starts processes. Every command is a list; no shell is ever asked to read one."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, cast

OUTPUT_LIMIT = 4_000_000  # bytes kept of a command's output; the rest is read and dropped
TAIL_LINES = 60
LINE_LIMIT = 4_000
INSIST = 50  # tries to lower a session's priority
LINGER = 2.0  # seconds for which we listen to what a command that ended has left running

Process = subprocess.Popen


@dataclass(frozen=True)
class Completed:
    """How a command ended. `code` is negative for a signal; `timed_out` when we ended it."""

    code: int
    stdout: str
    stderr: str = ""
    timed_out: bool = False

    @property
    def killed(self) -> bool:
        """Somebody else ended it with SIGKILL: most often the kernel, for want of memory."""
        return self.code in (-signal.SIGKILL, 128 + signal.SIGKILL) and not self.timed_out


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    keep: Sequence[int] = (),
    limit: int = OUTPUT_LIMIT,
) -> Completed:
    """Run a command to its end, standard input closed, both streams captured up to `limit` bytes.

    After `timeout` seconds its whole process group is killed. Raises OSError when it cannot be started.
    """
    with _started(command, cwd, env, keep, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        kept: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
        timed_out = False
        try:
            for stream, chunk in _chunks(process, tuple(kept), timeout):
                kept[stream] += chunk[: limit - len(kept[stream])]
        except TimeoutError:
            timed_out = True
            _kill_group(process)
        process.wait()
        out, err = (data.decode(errors="replace") for data in kept.values())
        return Completed(process.returncode, out, err, timed_out)


def follow(
    command: Sequence[str],
    on_line: Callable[[str], None],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    keep: Sequence[int] = (),
) -> Completed:
    """Run a command and hand each line of both streams to `on_line` as it comes.

    A carriage return ends a line too (progress bars). The result's `stdout` holds the last TAIL_LINES lines.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with _started(command, cwd, env, keep, stderr=subprocess.STDOUT) as process:
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            _kill_group(process)

        timer = threading.Timer(timeout or 0, expire)
        timer.daemon = True
        if timeout:
            timer.start()
        try:
            assert process.stdout is not None
            for line in _lines(chunk for _, chunk in _chunks(process, (process.stdout,))):
                tail.append(line)
                on_line(line)
            process.wait()
        finally:
            timer.cancel()
        return Completed(process.returncode, "\n".join(tail), timed_out=expired.is_set())


def spawn(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, output: Path | None = None, niceness: int = 0
) -> Process[bytes]:
    """Start a process that outlives us, in a session of its own that stands back by `niceness` (0 to 19) from its first
    moment, its output in a file. Poll it to reap it."""
    with open(output or os.devnull, "ab") as stream:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=None if env is None else dict(env),
            cwd="/",
            start_new_session=True,
        )
    _let_stand_back(process.pid, niceness)
    return process


def stand_back(niceness: int, memory: int, processes: int) -> None:
    """Let this process, and the children that it will have, stand back for everything else, within limits; 0 is none.

    Bytes of address space for each process, and processes of this user. What the system refuses stays as it is.
    """
    _let_stand_back(os.getpid(), niceness)
    if niceness > 0 and _leads_session():
        threading.Thread(target=_insist, args=(niceness,), name="priority", daemon=True).start()
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_NPROC, processes)):
        if value:
            with contextlib.suppress(OSError, ValueError):
                _, hard = resource.getrlimit(limit)
                most = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(limit, (most, most))


def _let_stand_back(pid: int, niceness: int) -> None:
    """Lower a process's priority to that niceness, and its session's where it leads one. Linux weighs whole sessions
    against each other (sched(7), "autogroup"), and each begins with the ordinary weight, however nice its processes
    are. A command that somebody starts in a terminal leaves the terminal's session as it is."""
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, pid) < niceness:
            os.setpriority(os.PRIO_PROCESS, pid, niceness)
    if niceness > 0:
        with contextlib.suppress(OSError):
            if os.getsid(pid) == pid:
                Path(f"/proc/{pid}/autogroup").write_text(str(niceness))


def _insist(niceness: int) -> None:
    """Linux lets ordinary users change one session in a tenth of a second, and many builds may begin at once."""
    own = Path("/proc/self/autogroup")
    with contextlib.suppress(OSError):
        for _ in range(INSIST):
            if own.read_text().rstrip().endswith(f" {niceness}"):
                return
            with contextlib.suppress(BlockingIOError):
                own.write_text(str(niceness))
            time.sleep(0.1)


def _leads_session() -> bool:
    return os.getsid(0) == os.getpid()


def _apart() -> dict[str, Any]:
    """How a child gets a process group that can be killed as one: a session of its own, which no terminal can reach. A
    session that stands back is kept together, for a new one would not stand back; it has no terminal."""
    if sys.version_info >= (3, 11) and _leads_session() and os.getpriority(os.PRIO_PROCESS, 0) > 0:
        return {"process_group": 0}
    return {"start_new_session": True}


def start(command: Sequence[str], *, env: Mapping[str, str], cwd: Path, output: Path) -> Process[bytes]:
    """Start a process that we will end ourselves (with `stop`), its output in a file."""
    with output.open("ab") as stream:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=dict(env),
            cwd=cwd,
            **_apart(),
        )
    _let_stand_back(process.pid, os.getpriority(os.PRIO_PROCESS, 0))
    return process


def join(command: Sequence[str], *, env: Mapping[str, str], cwd: Path, keep: Sequence[int] = ()) -> Process[bytes]:
    """Start a process in our own process group, with our own output: it gets the signals that a client sends there.

    It begins with interrupts ignored, and so survives one that comes before it has a handler of its own; so do we for
    the milliseconds until it runs. Call it from the main thread.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.Popen(list(command), stdin=subprocess.DEVNULL, env=dict(env), cwd=cwd, pass_fds=tuple(keep))
    finally:
        signal.signal(signal.SIGINT, handler)


def tied(command: Sequence[str]) -> list[str]:
    """The command, to be killed by the system when we die, where util-linux's `setpriv` is there to ask for that."""
    setpriv = _setpriv()
    return [setpriv, "--pdeathsig", "KILL", "--", *command] if setpriv else list(command)


@functools.cache
def _setpriv() -> str | None:
    program = shutil.which("setpriv")
    if program is None:
        return None
    done = run([program, "--pdeathsig", "KILL", "--", "true"], timeout=10)
    return program if done.code == 0 else None


def stop(process: Process[bytes], grace: float = 5) -> None:
    """End a process group: politely, then by force."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        process.wait()


def end(pid: int, module: str) -> None:
    """Ask somebody's `python -m <module>` to end; a process that took over the number since then is left alone.

    Raises PermissionError when it belongs to another user.
    """
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return
    if module.encode() in command:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def become(command: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Replace this process by a command. Descriptors marked inheritable stay open in it. Raises OSError."""
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a command would go on doing so
        signal.signal(signum, signal.SIG_DFL)
    os.execve(command[0], list(command), dict(env))


@contextlib.contextmanager
def _started(
    command: Sequence[str],
    cwd: Path | None,
    env: Mapping[str, str] | None,
    keep: Sequence[int],
    *,
    stderr: int,
) -> Iterator[Process[bytes]]:
    """A child in a process group of its own, which is killed when the block is left early."""
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=cwd,
        env=None if env is None else dict(env),
        pass_fds=tuple(keep),
        **_apart(),
    )
    _let_stand_back(process.pid, os.getpriority(os.PRIO_PROCESS, 0))
    try:
        yield process
    except BaseException:
        _kill_group(process)
        raise
    finally:
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _kill_group(process: Process[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _chunks(
    process: Process[bytes], streams: Sequence[IO[bytes]], timeout: float | None = None
) -> Iterator[tuple[IO[bytes], bytes]]:
    """What comes through pipes, as (stream, bytes): to their end and the command's or, when a daemon holds one open,
    until shortly after the command's end.

    Raises TimeoutError after `timeout` seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    until: float | None = None
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and (until is None or time.monotonic() < until):
            ended = process.poll() is not None  # asked before we look, so that its last words are not lost
            ready = selector.select(0.1)
            for key, _ in ready:
                stream = cast("IO[bytes]", key.fileobj)
                if chunk := os.read(stream.fileno(), 1 << 16):
                    yield stream, chunk
                else:
                    selector.unregister(stream)
            if ended and not ready:
                return
            if ended and until is None:
                until = time.monotonic() + LINGER
            _check(deadline)
    while process.poll() is None:  # it closed its streams and goes on: rare, so this may be coarse
        _check(deadline)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)


def _check(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Lines of at most LINE_LIMIT characters, ended by a newline or a carriage return."""
    rest = b""
    for chunk in chunks:
        *complete, rest = re.split(rb"[\r\n]+", rest + chunk)
        for line in complete:
            if text := line[:LINE_LIMIT].decode(errors="replace").rstrip():
                yield text
        if len(rest) > LINE_LIMIT:
            yield rest[:LINE_LIMIT].decode(errors="replace")
            rest = b""
    if text := rest.decode(errors="replace").rstrip():
        yield text
