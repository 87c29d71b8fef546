"""A kernel whose build the test plays itself: it holds the lock, writes the progress, and publishes a prefix.

The prefix is a real one, a venv that sees the packages of the interpreter that runs the tests. So a waiting kernel can
be looked at for as long as a test likes, and the hand-over is to a real ipykernel, without an environment being built.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import uuid
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session
from waits import until

from sepal_provisioner import locks
from sepal_provisioner.errors import SepalError
from sepal_provisioner.files import write_json
from sepal_provisioner.generation import Generation, Record
from sepal_provisioner.index import Index, Kernel, write_index
from sepal_provisioner.order import VARIABLE, Order
from sepal_provisioner.progress import Phase, Progress
from sepal_provisioner.settings import Sepal
from sepal_provisioner.store import Store
from sepal_provisioner.wire import Connection, read_connection

NAME = "venv-stage"
TITLE = "(venv) Stage"
WANTED, OLD = "00000000000000aa", "00000000000000bb"  # fingerprints
PATIENCE = 120.0  # seconds that anything may take on a busy machine

Message = dict[str, Any]


def make_prefix(path: Path) -> None:
    """A prefix with a real interpreter and this interpreter's packages."""
    venv.EnvBuilder(symlinks=True).create(path)
    packages = next(path.glob("lib/python*/site-packages"))
    (packages / "stage.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


class Stage:
    """A store with the kernel `venv-stage`, and who builds its environment."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.store = Store(root / "store")
        self.options = options
        self._stack = contextlib.ExitStack()
        kernel = Kernel(NAME, "stage", "Stage", "https://example.org/stage", "stage", "0" * 40, "env.yml", WANTED)
        self.store.root.mkdir(parents=True)
        write_index(self.store.index_path, Index(kernels=(kernel,)))
        now = time.time()
        self.progress = Progress(NAME, WANTED, started=now, updated=now, user="ada", host="lake", pid=os.getpid())

    def values(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {"store": str(self.store.root), "refresh_interval": 0, **self.options}

    def order(self, **changes: Any) -> Order:
        """What a waiting kernel is told."""
        return replace(Order(NAME, TITLE, Sepal(**self.values())), **changes)

    def path(self, what: str) -> Path:
        """The lock, progress.json, log or request.json of the environment."""
        return self.store.beside(NAME, WANTED, what)

    def begin(self) -> None:
        """Somebody starts to build."""
        lock = locks.exclusive(self.path("lock"), timeout=0, waiting_for="a test")
        self._stack.enter_context(lock)
        self.tell()

    def tell(self, **changes: Any) -> None:
        """The build writes how far it is."""
        self.progress = replace(self.progress, **{"updated": time.time(), **changes})
        write_json(self.path("progress.json"), {**asdict(self.progress), "phase": self.progress.phase.value})

    def prefix(self, fingerprint: str = WANTED) -> Generation:
        """A prefix that is not published yet."""
        generation = self.store.next_generation(NAME, fingerprint)
        make_prefix(generation.path)
        return generation

    def publish(self, generation: Generation | None = None, fingerprint: str = WANTED) -> Generation:
        """The build is done."""
        made = generation or self.prefix(fingerprint)
        made.publish(Record(NAME, made.fingerprint, "a test", conda=False, variables={"STAGE": made.path.name}))
        if made.fingerprint == WANTED and self.path("progress.json").exists():
            self.tell(phase=Phase.DONE, ended=time.time())
        self.leave()
        return made

    def fail(self, error: SepalError) -> None:
        """The build fails."""
        self.path("log").write_text("what the build said\n")
        self.tell(ended=time.time(), error=error.code, message=error.message, detail=error.detail)
        self.leave()

    def leave(self) -> None:
        """The lock is free."""
        self._stack.close()

    @contextlib.contextmanager
    def waiting(
        self, *, transport: str = "tcp", order: Order | None = None, through: Sequence[str] = (), **env: str
    ) -> Iterator[Waiting]:
        """A waiting kernel in a process and a group of its own, killed at the end; `through` precedes its command."""
        folder = self.root / f"kernel-{uuid.uuid4().hex[:6]}"
        folder.mkdir()
        started = Waiting(folder, transport, order or self.order(), through, env)
        try:
            yield started
        finally:
            started.end()


class Waiting:
    """A process of `sepal_provisioner.waiting`, and the connection to it."""

    def __init__(
        self, folder: Path, transport: str, order: Order, through: Sequence[str], env: Mapping[str, str]
    ) -> None:
        self.file = folder / "connection.json"
        self.log = folder / "output"
        ip = str(folder / "ipc") if transport == "ipc" else "127.0.0.1"
        write_connection_file(str(self.file), ip=ip, key=uuid.uuid4().bytes.hex().encode(), transport=transport)
        self.context = zmq.Context()
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*through, sys.executable, "-m", "sepal_provisioner.waiting", "-f", str(self.file)],
                env={
                    **os.environ,
                    "IPYTHONDIR": str(folder / "ipython"),
                    "JPY_PARENT_PID": str(os.getpid()),
                    VARIABLE: order.to_variable(),
                    **env,
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def connection(self) -> Connection:
        """Where it listens."""
        return read_connection(self.file)

    def client(self) -> Client:
        """A new client, whose subscription has taken hold."""
        return Client(self.connection, self.context)

    def interrupt(self) -> None:
        """What the interrupt button does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def children(self) -> list[int]:
        """The processes that it started."""
        return children(self.process.pid)

    def printed(self) -> str:
        """What it wrote to its standard streams."""
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        """Kill the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.context.destroy(0)


class Client:
    """Sends what it is told and keeps all that it hears, in the order in which it came."""

    def __init__(self, connection: Connection, context: zmq.Context[Any]) -> None:
        self.session = connection.session()
        self.heard: list[Message] = []
        identity = self.session.bsession
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()
        for channel in ("shell", "control", "stdin", "iopub"):
            kind = zmq.SUB if channel == "iopub" else zmq.DEALER
            made = context.socket(kind)
            made.linger = 0
            made.reconnect_ivl = 5
            if kind == zmq.SUB:
                made.rcvhwm = 0
                made.subscribe(b"")
            else:
                made.identity = identity
            if connection.curve:
                made.curve_publickey, made.curve_secretkey = connection.curve
                made.curve_serverkey = connection.curve[0]
            made.connect(connection.address(channel))
            self.sockets[channel] = made
            self._poller.register(made, zmq.POLLIN)
        self._subscribe()

    def _subscribe(self) -> None:
        """Ask until an answer is heard on iopub, too."""
        until(self._heard_on_iopub, "iopub stays silent")

    def _heard_on_iopub(self) -> bool:
        asked = self.send("kernel_info_request")
        self.reply(asked)
        with contextlib.suppress(TimeoutError):
            self.wait(lambda message: of(message, asked) and message["channel"] == "iopub", timeout=0.3)
            return True
        return False

    def send(self, kind: str, channel: str = "shell", buffers: list[bytes] | None = None, **content: Any) -> str:
        """Send a request; returns its id."""
        message = self.session.send(self.sockets[channel], kind, content, buffers=buffers)
        assert message is not None
        return str(message["header"]["msg_id"])

    def cell(self, code: str, **options: Any) -> str:
        """Send a cell; returns its id."""
        content = {"silent": False, "store_history": True, "user_expressions": {}, "stop_on_error": False}
        return self.send("execute_request", code=code, **{**content, "allow_stdin": False, **options})

    def listen(self, timeout: float = 0.0) -> bool:
        """Take in what is there; whether there was anything within `timeout` seconds."""
        names = {made: channel for channel, made in self.sockets.items()}
        events = self._poller.poll(int(timeout * 1000))
        for made, _ in events:
            _, message = self.session.recv(made, copy=True)
            assert message is not None
            self.heard.append({**message, "channel": names[made]})
        return bool(events)

    def wait(self, wanted: Callable[[Message], bool], timeout: float = PATIENCE, number: int = 1) -> Message:
        """The n-th message of a kind, heard already or still to come. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        looked = found = 0
        while True:
            for message in self.heard[looked:]:
                looked += 1
                if wanted(message):
                    found += 1
                    if found == number:
                        return message
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not heard; the last were {[m['msg_type'] for m in self.heard[-20:]]}")
            self.listen(left)

    def reply(self, asked: str, timeout: float = PATIENCE) -> Message:
        """The reply to a request."""
        return self.wait(lambda message: of(message, asked) and message["msg_type"].endswith("_reply"), timeout)

    def finish(self, asked: str, timeout: float = PATIENCE) -> list[Message]:
        """Wait for a cell's reply and its last idle; returns its output, from first to last."""
        replied = self.reply(asked, timeout)
        self.wait(lambda message: of(message, asked) and is_idle(message), timeout)
        assert replied["channel"] == "shell"
        return self.output(asked)

    def output(self, asked: str) -> list[Message]:
        """What was heard on iopub about a request so far, without states and without the cell's own text."""
        left_out = ("status", "execute_input")
        return [m for m in self.heard if of(m, asked) and m["channel"] == "iopub" and m["msg_type"] not in left_out]

    def run(self, code: str, **options: Any) -> str:
        """Run a cell; returns its printed text, its result, or its error."""
        return text(self.finish(self.cell(code, **options)))


def of(message: Message, asked: str) -> bool:
    """Whether a message belongs to a request."""
    return bool(message["parent_header"].get("msg_id") == asked)


def is_idle(message: Message) -> bool:
    """Whether a message says that the kernel is done with what it answers."""
    return bool(message["msg_type"] == "status" and message["content"]["execution_state"] == "idle")


def kinds(messages: list[Message]) -> list[str]:
    """The types of messages."""
    return [message["msg_type"] for message in messages]


def text(messages: list[Message]) -> str:
    """What a person reads of a cell's output: streams, results, and errors as `name: value`."""
    words = []
    for message in messages:
        content = message["content"]
        if message["msg_type"] == "stream":
            words.append(content["text"])
        elif message["msg_type"] == "execute_result":
            words.append(content["data"]["text/plain"])
        elif message["msg_type"] == "error":
            words.append(f"{content['ename']}: {content['evalue']}")
    return "".join(words)


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def gone(pid: int) -> bool:
    """Whether a process ended; one that nobody has waited for yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def greeting(connection: Connection, channel: str) -> bytes:
    """The first bytes that a bound zmq socket says to whoever connects."""
    address = connection.address(channel).partition("://")[2]
    family = socket.AF_UNIX if connection.transport == "ipc" else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as line:
        line.settimeout(PATIENCE)
        line.connect(address if family == socket.AF_UNIX else (connection.ip, connection.ports[channel]))
        line.sendall(b"\xff\0\0\0\0\0\0\0\1\x7f")
        return line.recv(10)


def signed(session: Session, parts: list[dict[str, Any]], buffers: list[bytes] | None = None) -> list[bytes]:
    """Frames of a message whose JSON nobody else would write this way: header, parent, metadata, content."""
    frames = [json.dumps(part, indent=3, ensure_ascii=False, default=str).encode() for part in parts]
    return [b"<IDS|MSG>", session.sign(frames), *frames, *(buffers or [])]
