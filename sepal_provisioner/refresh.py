"""Syncs in the background, each in a process of its own: a server's, every so often, and a watch's."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

from . import process, sync
from .errors import SepalError
from .files import human_time, writable
from .settings import Sepal
from .store import Store

_SYNC_SECONDS = 1800
_SERVICE = ("NOTIFY_SOCKET", "WATCHDOG_")  # a service manager's words to us, and not to our children


class Refresher:
    """Runs syncs for one server, if it may write the store. Making one does nothing; `start` may be called often."""

    def __init__(self, settings: Sepal, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
        self._settings, self._log = settings, log
        self._first_done = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Begin, unless it has begun; whether there is a refresh at all."""
        settings = self._settings
        if not settings.catalogs or settings.refresh_interval == 0:
            return False
        with self._lock:
            if self._thread is None:
                if not writable(Path(settings.store)):
                    return False
                self._thread = threading.Thread(target=self._run, name="sepal-refresh", daemon=True)
                self._thread.start()
        return True

    def wait_for_first(self, seconds: float) -> bool:
        """Wait for the first sync to end; False when it took longer."""
        return self._first_done.wait(seconds)

    def _run(self) -> None:
        said = ""
        pause = threading.Event()
        while True:
            text = self._once()
            if text and text != said:  # the same problems every five minutes would hide everything else
                self._log.warning("sepal: the last sync had problems:\n%s", text)
            said = text
            self._first_done.set()
            pause.wait(self._settings.refresh_interval)

    def _once(self) -> str:
        try:
            done = process.run(sync.command(self._settings), timeout=_SYNC_SECONDS)
        except (SepalError, OSError) as error:
            return str(error)
        return done.stderr.strip()


class SyncProcess:
    """One sync in a process of its own, for a loop that looks at it now and then. Unlike a thread it can be ended."""

    def __init__(self, settings: Sepal, store: Store) -> None:
        self._output = store.root / "watch.sync.log"
        self._child: process.Process[bytes] | None = None
        self._began = time.monotonic()
        self._failure = ""
        try:
            self._output.unlink(missing_ok=True)
            command = sync.command(settings)
            env = {name: value for name, value in os.environ.items() if not name.startswith(_SERVICE)}
            self._child = process.start(command, env=env, cwd=store.root, output=self._output)
        except (SepalError, OSError) as error:
            self._failure = str(error)

    def step(self) -> str | None:
        """None while it runs, then why it failed, or nothing."""
        if self._child is None:
            return self._failure
        code = self._child.poll()
        if code is None and time.monotonic() - self._began < _SYNC_SECONDS:
            return None
        if code is None:
            self.stop()
            return f"it took longer than {human_time(_SYNC_SECONDS)}"
        text = ""
        with contextlib.suppress(OSError):
            text = self._output.read_text(encoding="utf-8", errors="replace").strip()
        return (text[-2000:] or f"it ended with {code}") if code else ""

    def stop(self) -> None:
        """End it."""
        if self._child is not None:
            process.stop(self._child)
