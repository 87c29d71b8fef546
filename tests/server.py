"""A real `jupyter server` (or `jupyter lab`) as a process of its own on loopback, spoken to as a browser does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

from sepal_provisioner.ports import Ports

TOKEN = "token-of-the-tests"
PATIENCE = 300  # seconds for a cell, its environment's build included


@dataclass
class Reply:
    """What a cell gave: its standard output, its error if there was one, its result, and what it shows at the end."""

    text: str
    error: str = ""
    traceback: str = ""
    result: str = ""
    displays: list[str] = field(default_factory=list)
    updates: list[str] = field(default_factory=list)


class JupyterServer:
    """A server process; use it as a context manager."""

    def __init__(
        self, config: Path, *, env: Mapping[str, str] | None = None, app: str = "server", base: str = "/"
    ) -> None:
        self._base = base.rstrip("/")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = config.with_name(f"{app}-{self.port}.log")
        self._command = [
            sys.executable, "-m", "jupyter", app, f"--config={config}", "--no-browser", "--allow-root",
            f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
            "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={config.parent}",
        ]  # fmt: skip
        self._env = {**os.environ, **(env or {})}

    def __enter__(self) -> JupyterServer:
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                self._command, env=self._env, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                self.get("/api/status")
                return self
            time.sleep(0.1)
        self.__exit__()
        raise AssertionError(f"the server did not start:\n{self.printed()[-4000:]}")

    def __exit__(self, *exception: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def printed(self) -> str:
        """The server's log so far."""
        return self.log.read_text(errors="replace")

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request: (status, the JSON answer or None)."""
        return ask(self.url + path, TOKEN, method, body)

    def get(self, path: str) -> Any:
        """GET below the server's own path, which must succeed."""
        status, answer = self.request("GET", self._base + path)
        assert status == 200, (status, answer)
        return answer

    def kernelspecs(self) -> dict[str, Any]:
        """What the launcher shows."""
        return self.get("/api/kernelspecs")["kernelspecs"]

    @contextlib.contextmanager
    def kernel(self, name: str) -> Iterator[Kernel]:
        """A running kernel, shut down at the end."""
        status, model = self.request("POST", "/api/kernels", {"name": name})
        assert status == 201, (status, model)
        kernel = Kernel(self, model["id"])
        try:
            yield kernel
        finally:
            kernel.close()
            self.request("DELETE", f"/api/kernels/{model['id']}")


class Kernel:
    """One kernel over its websocket."""

    def __init__(self, server: JupyterServer, kernel_id: str) -> None:
        self.server, self.id = server, kernel_id
        self._session = uuid.uuid4().hex
        self._connect()

    def _connect(self) -> None:
        url = f"{self.server.url.replace('http', 'ws', 1)}/api/kernels/{self.id}/channels?session_id={self._session}"
        self._socket = websocket.create_connection(url, timeout=120, header=[f"Authorization: token {TOKEN}"])

    def close(self) -> None:
        """Close the websocket; the kernel goes on."""
        self._socket.close()

    def restart(self) -> None:
        """Restart the kernel, as a person does from the menu."""
        self.close()
        status, answer = self.server.request("POST", f"/api/kernels/{self.id}/restart")
        assert status == 200, (status, answer)
        self._connect()

    def run(self, code: str) -> Reply:
        """Run a cell and wait for its reply and for all of its output."""
        message_id = uuid.uuid4().hex
        header = {
            "msg_id": message_id, "msg_type": "execute_request", "username": "", "session": self._session,
            "version": "5.3", "date": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        content = {
            "code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False,
        }  # fmt: skip
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
        self._socket.send(json.dumps(message))
        reply, idle = Reply(""), False
        replied = False
        deadline = time.monotonic() + PATIENCE
        while not (idle and replied):
            answer = hear(self._socket, deadline)
            if answer is None:
                heard = f"replied: {replied}, idle: {idle}, {reply}"
                raise AssertionError(f"a cell has not ended ({heard}):\n{self.server.printed()[-4000:]}")
            if answer["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = answer["msg_type"], answer["content"]
            if kind == "stream":
                reply.text += content["text"]
            elif kind == "error":
                reply.error = f"{content['ename']}: {content['evalue']}"
                reply.traceback = "\n".join(content["traceback"])
            elif kind == "display_data":
                reply.displays.append(content["data"]["text/plain"])
            elif kind == "update_display_data":
                reply.updates.append(content["data"]["text/plain"])
            elif kind == "clear_output":
                reply.displays.clear()
            elif kind == "execute_result":
                reply.result = content["data"]["text/plain"]
            elif kind == "status" and content["execution_state"] == "idle":
                idle = True
            elif kind == "execute_reply":
                replied = True
        return reply


def ask(url: str, token: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
    """One request with a token: (status, the JSON answer, the text of what is none, or None)."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            text = response.read()
            return response.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        text = error.read()
        try:
            return error.code, json.loads(text)
        except ValueError:
            return error.code, text.decode(errors="replace")


def hear(socket: websocket.WebSocket, deadline: float) -> Any:
    """The next message of a websocket, or None at the deadline, which a server's pings do not put off."""
    socket.settimeout(20)  # they come less often
    while time.monotonic() < deadline:
        with contextlib.suppress(websocket.WebSocketTimeoutException):
            return json.loads(socket.recv())
    return None


_PORTS: list[Ports] = []


def free_port() -> int:
    """A port of loopback that nobody listens on now, and that only a server can bind until the tests end: several of
    them run at once."""
    _PORTS.append(Ports.keep("127.0.0.1", 1))
    return _PORTS[-1].numbers[0]
