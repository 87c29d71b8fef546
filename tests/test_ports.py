"""A kernel's ports are its own from the moment they are chosen, however many kernels start at once."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from jupyter_client.manager import KernelManager
from stage import NAME, Stage
from traitlets.config import Config

from sepal_provisioner import SepalKernelSpecManager
from sepal_provisioner.ports import Ports


def bound(port: int, *, reuse: bool = False) -> socket.socket:
    """A socket that took a port, or any free one."""
    taken = socket.socket()
    if reuse:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", port))
    except OSError:
        taken.close()
        raise
    return taken


def test_kept_ports_are_given_to_nobody_else_and_bound_by_a_kernel() -> None:
    """Who asks for a free port gets another, be it with SO_REUSEADDR or without; zmq binds a kept one, once, and what
    it hears there arrives; given back, it is free."""
    ports = Ports.keep("127.0.0.1", 5)
    try:
        assert len(set(ports.numbers)) == 5
        with ExitStack() as stack:
            others = [stack.enter_context(bound(0, reuse=number % 2 == 0)) for number in range(2000)]
            assert not {other.getsockname()[1] for other in others} & set(ports.numbers)
        context = zmq.Context()
        try:
            kernel, client, thief = (context.socket(kind) for kind in (zmq.ROUTER, zmq.DEALER, zmq.ROUTER))
            kernel.bind(f"tcp://127.0.0.1:{ports.numbers[0]}")
            with pytest.raises(zmq.ZMQError):
                thief.bind(f"tcp://127.0.0.1:{ports.numbers[0]}")
            client.connect(f"tcp://127.0.0.1:{ports.numbers[0]}")
            client.send(b"hello")
            assert kernel.poll(10_000) and kernel.recv_multipart()[1] == b"hello"
        finally:
            context.destroy(0)
        with pytest.raises(OSError, match="in use"):
            bound(ports.numbers[1])
    finally:
        ports.close()
    bound(ports.numbers[1]).close()


@pytest.mark.parametrize("address", ["no such host", "192.0.2.1", "*"])
def test_an_address_that_is_not_ours_is_an_error(address: str) -> None:
    """So that whoever asked can choose in another way."""
    with pytest.raises(OSError):
        Ports.keep(address, 5)


def test_a_kernels_ports_stay_its_own_over_a_restart(tmp_path: Path) -> None:
    """While the kernel is down between two starts nobody gets its ports; after the last end they are free."""
    stage = Stage(tmp_path / "stage")
    stage.publish()
    config = Config(Sepal=stage.values())
    specs = SepalKernelSpecManager(config=config)
    manager = KernelManager(kernel_name=NAME, kernel_spec_manager=specs, config=config)
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    manager.start_kernel(**output)
    try:
        ports = dict(manager.get_connection_info())
        chosen = [int(value) for name, value in ports.items() if name.endswith("_port")]
        manager.shutdown_kernel(now=True, restart=True)
        for port in chosen:
            with pytest.raises(OSError, match="in use"):
                bound(port)
        manager.start_kernel(**output)
        assert dict(manager.get_connection_info()) == ports
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=120)
        finally:
            client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)
    for port in chosen:
        bound(port, reuse=True).close()
