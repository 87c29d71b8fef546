"""The background refresh of a server: a sync in a process of its own, every so often."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from . import process, sync
from .errors import SepalError
from .files import writable
from .settings import Sepal

_SYNC_SECONDS = 1800


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
