"""A real JupyterHub with two users: one environment, built once into a shared store, runs for both."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import websocket
from conftest import SMALL, Site
from server import ask, free_port, hear

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "jupyterhub"
USERS = ("ada", "bob")
PATIENCE = 240


def proxy() -> str | None:
    """configurable-http-proxy, from the npm registry: on PATH, or in the project's own node_modules."""
    local = ROOT / "node_modules" / ".bin" / "configurable-http-proxy"
    return str(local) if local.exists() else shutil.which("configurable-http-proxy")


pytestmark = [
    pytest.mark.skipif(find_spec("jupyterhub") is None, reason="JupyterHub is not installed"),
    pytest.mark.skipif(proxy() is None, reason="configurable-http-proxy is not installed (npm)"),
]


class Hub:
    """A JupyterHub process with the example's configuration, on loopback, spoken to by its API."""

    def __init__(self, site: Site) -> None:
        self.folder = site.root / "hub"
        self.folder.mkdir()
        self.port, self.token = free_port(), secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{self.port}"
        (self.folder / "jupyterhub_config.py").write_text(
            f"""
import os
os.environ |= {{"SEPAL_HUB_STORE": {str(site.store.root)!r}, "SEPAL_HUB_HOMES": {str(self.folder / "homes")!r}}}
load_subconfig({str(EXAMPLE / "jupyterhub_config.py")!r})
c.JupyterHub.bind_url = {self.url!r}
c.JupyterHub.hub_port = {free_port()}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{free_port()}"
c.ConfigurableHTTPProxy.command = [{proxy()!r}]
c.JupyterHub.services = [{{"name": "test", "api_token": {self.token!r}}}]
c.JupyterHub.load_roles = [{{
    "name": "test", "services": ["test"], "scopes": ["admin:users", "admin:servers", "access:servers"],
}}]
c.Spawner.args = ["--allow-root"]
""",
            encoding="utf-8",
        )
        self.log = self.folder / "log"

    def __enter__(self) -> Hub:
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", "jupyterhub_config.py"],
                cwd=self.folder, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.request("GET", "/hub/api/")[0] == 200:
                    return self
            time.sleep(0.2)
        self.__exit__()
        raise AssertionError(self.log.read_text()[-4000:])

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request: (status, JSON or None)."""
        return ask(self.url + path, self.token, method, body)

    @contextlib.contextmanager
    def server(self, user: str) -> Iterator[str]:
        """A user's own server, started by the hub; gives the path below which it is, and stops it."""
        status, answer = self.request("POST", f"/hub/api/users/{user}")
        assert status == 201, answer
        status, answer = self.request("POST", f"/hub/api/users/{user}/server")
        assert status in (201, 202), answer
        deadline = time.monotonic() + PATIENCE
        while not self.request("GET", f"/hub/api/users/{user}")[1]["servers"].get("", {}).get("ready"):
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.2)
        try:
            yield f"/user/{user}"
        finally:
            self.request("DELETE", f"/hub/api/users/{user}/server")

    def run(self, server: str, kernel: str, code: str) -> str:
        """Start a kernel on a user's server, run a cell in it, and return what it printed."""
        status, model = self.request("POST", f"{server}/api/kernels", {"name": kernel})
        assert status == 201, (model, self.log.read_text()[-4000:])
        session = uuid.uuid4().hex
        url = f"{self.url.replace('http', 'ws', 1)}{server}/api/kernels/{model['id']}/channels?session_id={session}"
        line = websocket.create_connection(url, timeout=PATIENCE, header=[f"Authorization: token {self.token}"])
        with contextlib.closing(line):
            header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": session, "username": ""}
            header |= {"version": "5.3", "date": "2026-01-01T00:00:00Z"}
            content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}}
            message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
            line.send(json.dumps({**message, "content": {**content, "allow_stdin": False}}))
            text, deadline = "", time.monotonic() + PATIENCE
            while True:
                answer = hear(line, deadline)
                assert answer is not None, self.log.read_text()[-4000:]
                if answer["parent_header"].get("msg_id") != header["msg_id"]:
                    continue
                if answer["msg_type"] == "stream":
                    text += answer["content"]["text"]
                elif answer["msg_type"] == "error":
                    raise AssertionError(answer["content"])
                elif answer["msg_type"] == "execute_reply":
                    assert answer["content"]["status"] == "ok", answer["content"]
                    if text:
                        return text.strip()
                elif answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle" and text:
                    return text.strip()


def test_two_users_of_a_hub_run_what_was_built_once(conda_site: Site) -> None:
    """The administrator syncs and builds into the shared store; both users' servers list the kernel as ready and run it
    from that one prefix; what is missing there is built in the user's own store."""
    conda_site.add("forest", {"sepal_environment.yml": SMALL})
    conda_site.add("water", {"sepal_environment.yml": SMALL.replace("sepal-demo", "numpy")})
    conda_site.sync()
    shared = conda_site.build("venv-forest")
    mirrors = json.dumps(conda_site.mirrors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEPAL_HUB_MIRRORS", mirrors)
        with Hub(conda_site) as hub:
            prefixes = {}
            for user in USERS:
                with hub.server(user) as server:
                    specs = hub.request("GET", f"{server}/api/kernelspecs")[1]["kernelspecs"]
                    states = {
                        name: specs[name]["spec"]["metadata"]["sepal"]["state"] for name in specs if "venv" in name
                    }
                    assert states == {"venv-forest": "ready", "venv-water": "missing"}
                    prefixes[user] = hub.run(server, "venv-forest", "import sys, sepal_demo; print(sys.prefix)")
                    if user == "bob":
                        own = hub.run(server, "venv-water", "import sys, numpy; print(sys.prefix)")
    assert prefixes == dict.fromkeys(USERS, str(shared.path))
    assert own.startswith(str(hub.folder / "homes" / "bob"))
    assert [len(conda_site.store.generations(name)) for name in ("venv-forest", "venv-water")] == [1, 0]
