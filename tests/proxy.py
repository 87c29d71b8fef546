"""An nginx of the tests' own in front of a server: what a gateway that has little patience does to requests."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

from server import free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/sbin")
READ_TIMEOUT = 20  # seconds

# One process that stays who started it, and everything it writes lies in its own folder.
_CONFIG = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{
    worker_connections 512;
}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        '' close;
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_read_timeout {read_timeout}s;
        }}
    }}
}}
"""


class Proxy:
    """nginx in front of the server on the port `upstream`; use it as a context manager."""

    def __init__(self, folder: Path, upstream: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder / f"nginx-{self.port}"
        self._upstream = upstream

    def __enter__(self) -> Proxy:
        assert NGINX is not None
        self._folder.mkdir(parents=True)
        config = self._folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(folder=self._folder, port=self.port, upstream=self._upstream, read_timeout=READ_TIMEOUT)
        )
        with (self._folder / "output.log").open("wb") as stream:
            self._process = subprocess.Popen(
                [NGINX, "-p", str(self._folder), "-e", str(self._folder / "error.log"), "-c", str(config)],
                stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.05)
        self.__exit__()
        raise AssertionError(f"nginx did not start:\n{self.errors()}\n{(self._folder / 'output.log').read_text()}")

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def errors(self) -> str:
        """What nginx complained of: requests that it ended for want of an answer are among it."""
        log = self._folder / "error.log"
        return log.read_text(errors="replace") if log.exists() else ""
