"""The real kernel behind the bound sockets: started on a private connection, then every frame is passed on unread."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import zmq

from . import process
from .errors import BuildError
from .launch import Launch
from .temporary import TemporaryFolder
from .wire import LINGER, Frames, Wire, private_connection

START_SECONDS = 120
RECONNECT_EVERY = 5  # milliseconds: a kernel binds its sockets some time after it was started
SETTLE_SECONDS = 0.2  # for the frames that were under way when the kernel ended
_IDENTITY = b"sepal-relay"  # the same on shell and stdin: a kernel asks for input where the request came from


class RealKernel:
    """A kernel of a ready prefix. `step` until it is true, then `relay`."""

    def __init__(self, launch: Launch, arguments: list[str], wire: Wire, cwd: Path) -> None:
        self._wire = wire
        self.folder = TemporaryFolder("kernel", sockets=True)
        self.connection, path = private_connection(wire.connection, self.folder.path)
        command = [launch.python, "-m", "ipykernel_launcher", "-f", str(path), *arguments]
        # In our process group, where a client's signals go, and tied to us as its parent.
        env = {**launch.env, "JPY_PARENT_PID": str(os.getpid())}
        try:
            self.process = process.join(command, env=env, cwd=cwd, keep=[launch.lock] if launch.lock >= 0 else [])
        except OSError as error:
            self.remove()
            raise BuildError(f"The kernel can't be started: {error.strerror}: {command[0]}") from error
        self._session = self.connection.session()
        self.shell = self._connect("shell", zmq.DEALER)
        self.control = self._connect("control", zmq.DEALER)
        self.stdin = self._connect("stdin", zmq.DEALER)
        self.iopub = self._connect("iopub", zmq.XSUB)
        self.iopub.send(b"\x01")
        self._began = time.monotonic()
        self._asked = ""
        self._asked_at = 0.0
        self._answers = 0
        self._questions = 0
        self._heard = False

    def _connect(self, channel: str, kind: int) -> zmq.Socket[bytes]:
        socket = self._wire.context.socket(kind)
        socket.linger = LINGER
        socket.reconnect_ivl = RECONNECT_EVERY
        socket.immediate = channel == "stdin"  # writable once it is connected: nothing else would tell
        if kind == zmq.XSUB:
            socket.rcvhwm = 0
        else:
            socket.identity = _IDENTITY
        socket.connect(self.connection.address(channel))
        return socket

    def step(self) -> bool:
        """One look; True once the kernel answers, its output reaches us, and it can ask for input: only then nothing of
        it can be lost.

        Raises BuildError when it ended or stays silent.
        """
        if (code := self.process.poll()) is not None:
            raise BuildError(f"The environment is there, but its kernel ended at once (exit code {code}).")
        if time.monotonic() - self._began > START_SECONDS:
            raise BuildError(f"The environment is there, but its kernel gave no answer in {START_SECONDS} s.")
        while self.shell.poll(0):
            self.shell.recv_multipart()
            self._answers += 1
        while self.iopub.poll(0):
            frames = b"".join(self.iopub.recv_multipart())
            self._heard = self._heard or (self._asked != "" and self._asked.encode() in frames)
        if self._heard and self._answers == self._questions:
            return bool(self.stdin.poll(0, zmq.POLLOUT))
        if self._answers == self._questions or time.monotonic() - self._asked_at > 1:
            self._ask()
        return False

    @property
    def answered(self) -> bool:
        """Whether anything came from it yet; the rest of what `step` waits for takes milliseconds."""
        return self._answers > 0 or self._heard

    def _ask(self) -> None:
        message = self._session.send(self.shell, "kernel_info_request", {})
        assert message is not None
        self._asked = message["header"]["msg_id"]
        self._asked_at = time.monotonic()
        self._questions += 1

    def replay(self, shell: Iterable[Frames], control: Iterable[Frames]) -> None:
        """Hand over what was held, byte for byte and in order."""
        for frames in control:
            self.control.send_multipart(frames)
        for frames in shell:
            self.shell.send_multipart(frames)

    def pairs(self) -> tuple[tuple[zmq.Socket[bytes], zmq.Socket[bytes]], ...]:
        """Each bound socket with the one that leads to the real kernel."""
        return (
            (self._wire.shell, self.shell),
            (self._wire.control, self.control),
            (self._wire.stdin, self.stdin),
            (self._wire.iopub, self.iopub),
        )

    def relay(self) -> None:
        """From now on zmq passes every frame on, a thread for each channel; the sockets are not ours any more."""
        for pair in self.pairs():
            threading.Thread(target=_pass_on, args=pair, daemon=True).start()

    def settle(self) -> None:
        """The kernel ended: let what it said last reach the clients. The end of the context ends the threads."""
        time.sleep(SETTLE_SECONDS)
        self._wire.context.term()

    def discard(self) -> None:
        """End a kernel that was not handed over to, and leave nothing of it: an open socket holds up our own end."""
        self.process.kill()
        self.process.wait()
        for _, back in self.pairs():
            back.close(0)
        self.remove()

    def remove(self) -> None:
        """Remove the private folder."""
        self.folder.remove()


def _pass_on(front: zmq.Socket[bytes], back: zmq.Socket[bytes]) -> None:
    with contextlib.suppress(zmq.ZMQError):  # the context ends
        zmq.proxy(front, back)
    front.close()
    back.close(0)  # nobody is there any more
