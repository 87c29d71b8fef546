"""Ports that are kept free for one kernel, from before it starts until it is gone."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Ports:
    """TCP ports of one address, each held by a socket that is bound and never listens.

    A kernel binds its ports some time after they were chosen. Whoever else asks for any free port meanwhile gets
    another one than these, but a kernel can bind them: zmq sets SO_REUSEADDR, as we do (socket(7)).
    """

    numbers: tuple[int, ...] = ()
    _sockets: list[socket.socket] = field(default_factory=list)

    @classmethod
    def keep(cls, address: str, count: int) -> Ports:
        """Choose `count` free ports of an IP address or host name and keep them. Raises OSError."""
        sockets: list[socket.socket] = []
        try:
            for _ in range(count):
                keeper = socket.socket(_family(address), socket.SOCK_STREAM)
                sockets.append(keeper)
                keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                keeper.bind((address, 0))
        except OSError:
            _close(sockets)
            raise
        return cls(tuple(keeper.getsockname()[1] for keeper in sockets), sockets)

    def close(self) -> None:
        """Give them back."""
        _close(self._sockets)
        self._sockets = []


def _family(address: str) -> socket.AddressFamily:
    try:
        return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError:  # a host name: zmq takes its IPv4 address
        return socket.AF_INET


def _close(sockets: Sequence[socket.socket]) -> None:
    for keeper in sockets:
        keeper.close()
