"""A conda channel behind a slow line: a real build made to last, by the bytes per second that it gets."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class SlowLine:
    """All downloads together get `rate` bytes a second; `open` lets the rest through at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._opened = threading.Event()

    def open(self) -> None:
        """From now on nothing is slow."""
        self._opened.set()

    def pass_on(self, size: int) -> None:
        """Wait until `size` bytes may go."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self._rate
            wait = self._free_at - now
        self._opened.wait(wait)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: object, line: SlowLine, **options: object) -> None:
        self._line = line
        super().__init__(*arguments, **options)  # type: ignore[arg-type]

    def copyfile(self, source, outputfile) -> None:  # type: ignore[no-untyped-def]
        while chunk := source.read(32_768):
            if not self.path.split("?")[0].endswith((".json", ".zst", ".msgpack")):
                self._line.pass_on(len(chunk))
            outputfile.write(chunk)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: a test's output is its own."""


@contextlib.contextmanager
def slow_channel(channel: Path, rate: float) -> Iterator[tuple[dict[str, str], SlowLine]]:
    """Serve the test channel at `rate` bytes a second: (the mirrors to set, the line)."""
    line = SlowLine(rate)
    handler = partial(_Handler, directory=str(channel), line=line)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield {name: f"{url}/{name}" for name in ("conda-forge", "defaults")}, line
        finally:
            line.open()
            server.shutdown()
