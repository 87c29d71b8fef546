"""What systemd is told about a service: sd_notify(3), which is one datagram to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping

PATIENCE = 5  # seconds for a manager that is slow to read


class Notifier:
    """Tells the service manager how it goes; where there is none, it tells nobody."""

    def __init__(self, env: Mapping[str, str]) -> None:
        address = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # an abstract socket's name
        limit = env.get("WATCHDOG_USEC", "")
        self._alive_every = int(limit) / 2e6 if limit.isdigit() else 0.0
        self._said_alive = 0.0

    def tell(self, *lines: str) -> None:
        """Send lines such as `READY=1` or `STATUS=…`. A manager that does not listen is no reason to fail."""
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(PATIENCE)
                channel.connect(self._address)
                channel.sendall("\n".join(lines).encode())

    def alive(self) -> None:
        """Send WATCHDOG=1, twice as often as the manager asks for; call it as often as you like."""
        if self._alive_every and time.monotonic() - self._said_alive >= self._alive_every:
            self._said_alive = time.monotonic()
            self.tell("WATCHDOG=1")
