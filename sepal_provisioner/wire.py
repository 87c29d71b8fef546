"""The kernel's end of a connection file: five bound sockets that carry signed messages.

The protocol is Jupyter's (https://jupyter-client.readthedocs.io/en/stable/messaging.html): ROUTER sockets for shell,
control and stdin, one that publishes (iopub), and a heartbeat that echoes.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

from .errors import SettingsError
from .files import read_json

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
LINGER = 1000  # milliseconds that unsent messages get when a socket closes

Frames = list[bytes]


@dataclass(frozen=True)
class Connection:
    """A connection file's content."""

    transport: str
    ip: str
    ports: Mapping[str, int]
    key: bytes
    scheme: str
    curve: tuple[bytes, bytes] | None = None  # public and secret key, when connections are encrypted
    other: Mapping[str, Any] = field(default_factory=dict)

    def address(self, channel: str) -> str:
        """Where a channel is bound: `tcp://127.0.0.1:40123` or `ipc:///run/user/1000/kernel-1`."""
        separator = "-" if self.transport == "ipc" else ":"
        return f"{self.transport}://{self.ip}{separator}{self.ports[channel]}"

    def session(self) -> Session:
        """A session that signs and verifies with the connection's own key."""
        return Session(key=self.key, signature_scheme=self.scheme)


def read_connection(path: Path) -> Connection:
    """Read a connection file. Raises SettingsError."""
    try:
        document = read_json(path, 100_000)
        public, secret = document.get("curve_publickey"), document.get("curve_secretkey")
        return Connection(
            transport=document.get("transport", "tcp"),
            ip=document["ip"],
            ports={channel: int(document[f"{channel}_port"]) for channel in CHANNELS},
            key=document["key"].encode(),
            scheme=document.get("signature_scheme", "hmac-sha256"),
            curve=(public.encode(), secret.encode()) if public and secret else None,
            other={k: v for k, v in document.items() if k in ("kernel_name", "jupyter_session")},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"The connection file {path} can't be used: {error}") from None


def private_connection(like: Connection, folder: Path) -> tuple[Connection, Path]:
    """A connection over sockets in a folder that only this user can enter, with the same key; and its file."""
    ports = {channel: number for number, channel in enumerate(CHANNELS, 1)}
    connection = Connection("ipc", str(folder / "s"), ports, like.key, like.scheme)
    document: dict[str, Any] = {f"{channel}_port": number for channel, number in ports.items()}
    document |= {"transport": "ipc", "ip": connection.ip, "key": like.key.decode(), **like.other}
    document |= {"signature_scheme": like.scheme}
    path = folder / "kernel.json"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        json.dump(document, stream)
    return connection, path


class Wire:
    """The bound sockets of one kernel. Binding happens at once; raises SettingsError when that can't be done."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.session = connection.session()
        self.context = zmq.Context()
        self.shell = self._bind("shell", zmq.ROUTER)
        self.control = self._bind("control", zmq.ROUTER)
        self.stdin = self._bind("stdin", zmq.ROUTER)
        self.iopub = self._bind("iopub", zmq.XPUB)
        self.iopub.sndhwm = 0  # what a kernel prints is not dropped because it comes through here
        heartbeat = self._bind("hb", zmq.ROUTER)
        # The echo is zmq's own: it answers whatever this process is busy with.
        threading.Thread(target=_echo, args=(heartbeat,), name="heartbeat", daemon=True).start()

    def _bind(self, channel: str, kind: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.linger = LINGER
        if kind == zmq.ROUTER:
            socket.router_handover = 1  # a client that reconnects with its old identity is not refused
        if self.connection.curve:
            socket.curve_publickey, socket.curve_secretkey = self.connection.curve
            socket.curve_server = True
        address = self.connection.address(channel)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            raise SettingsError(f"The kernel can't listen on {address}: {error.strerror}. Start it again.") from None
        return socket

    def read(self, frames: Frames) -> tuple[list[bytes], dict[str, Any]] | None:
        """(identities, message) of received frames, or None when it is no message signed with our key."""
        try:
            identities, parts = self.session.feed_identities(frames)
            message = self.session.deserialize(parts)
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            return None
        if not isinstance(message["msg_type"], str) or not isinstance(message["content"], dict):
            return None
        return identities, message

    def reply(
        self, socket: zmq.Socket[bytes], kind: str, content: dict[str, Any], parent: Any, identities: list[bytes]
    ) -> None:
        """Answer a request on the channel it came from."""
        self.session.send(socket, kind, content, parent=parent, ident=identities)

    def publish(self, kind: str, content: dict[str, Any], parent: Any = None, **more: Any) -> None:
        """Send to everybody who listens, as output of the request `parent`."""
        self.session.send(self.iopub, kind, content, parent=parent, ident=f"kernel.sepal.{kind}".encode(), **more)

    def status(self, state: str, parent: Any = None) -> None:
        """Say that the kernel is `starting`, `busy` or `idle`."""
        self.publish("status", {"execution_state": state}, parent)

    def close(self) -> None:
        """Close what is still ours and give what was sent its second to arrive."""
        for socket in (self.shell, self.control, self.stdin, self.iopub):
            socket.close()
        self.context.term()


def _echo(socket: zmq.Socket[bytes]) -> None:
    try:
        zmq.proxy(socket, socket)
    except zmq.ZMQError:  # the context ends
        socket.close(0)
