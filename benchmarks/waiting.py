"""The kernel that waits for its environment: how soon it is there, what it costs, and what is left of it afterwards.

The environment is a real one. Where a build's own time is not what is measured, it is built before, its marker is taken
away, and the benchmark plays the build's last moment: it holds the lock and puts the marker back.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from launch import LAUNCH_SECONDS, RECONNECT_MILLISECONDS, stock_kernel
from measure import MEGABYTES, PERCENT, Measure, in_turns, say
from sites import NAME, Site, ensure_channel, geo_site
from traitlets.config import Config

from sepal_provisioner import SepalKernelSpecManager, locks
from sepal_provisioner.builds import cancel_build
from sepal_provisioner.files import write_json
from sepal_provisioner.generation import Generation, Record
from sepal_provisioner.progress import Phase

STARTS, HANDOVERS, TRIPS, OUTPUTS = 31, 41, 401, 7
PICKED, READY, TRIP, OUTPUT, MEMORY, PROCESSOR = 1.0, 1.05, 1.15, 1.15, 45.0, 2.5
CELL = "6 * 7"
FLOOD = "for _ in range(100):\n    print('x' * 999_999)"


def measures(work: Path) -> Iterator[Measure]:
    """From the launcher's tile to the relay."""
    say("waiting: building the environment")
    cold = geo_site(work / "cold", ensure_channel())
    site = geo_site(work / "site", ensure_channel())
    generation = site.build(NAME)
    stage = _Stage(site, generation, work / "kernels")

    sides: dict[str, Callable[[], float]] = {
        "ours": partial(_picked, _Stage(cold, generation, work / "cold-kernels")),
        "stock": stage.first_answer,
    }
    taken = in_turns("picked", sides, STARTS, warm=1)
    yield Measure("kernel picked, nothing built", tuple(taken["ours"]), tuple(taken["stock"]), PICKED)

    sides = {"ours": stage.handed_over, "stock": stage.launched}
    taken = in_turns("ready", sides, HANDOVERS, warm=1)
    yield Measure("prefix ready, until the cell's reply", tuple(taken["ours"]), tuple(taken["stock"]), READY)

    with stage.relayed() as ours, stage.direct() as stock:
        taken = in_turns("trip", {"ours": partial(_trip, ours), "stock": partial(_trip, stock)}, TRIPS, warm=20)
        yield Measure("an empty cell, through the relay", tuple(taken["ours"]), tuple(taken["stock"]), TRIP)
        taken = in_turns("output", {"ours": partial(_flood, ours), "stock": partial(_flood, stock)}, OUTPUTS, warm=1)
        yield Measure("100 MB of output, through the relay", tuple(taken["ours"]), tuple(taken["stock"]), OUTPUT)
    yield Measure("memory of a waiting kernel", (stage.memory(),), (MEMORY,), 1.0, MEGABYTES)
    yield Measure("processor of a waiting kernel", (stage.processor(),), (PROCESSOR,), 1.0, PERCENT)


class _Stage:
    """A site's kernel: as its provisioner starts it, and the same prefix's as a plain kernel.json."""

    def __init__(self, site: Site, generation: Generation, folder: Path) -> None:
        self.site, self.generation = site, generation
        self.record: Record = generation.record()
        self._config = Config(Sepal=site.values())
        self._ours = SepalKernelSpecManager(config=self._config)
        self._stock = KernelSpecManager(kernel_dirs=[str(stock_kernel(folder, generation))])
        self._context = zmq.Context()
        self._context.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MILLISECONDS)

    @contextlib.contextmanager
    def _kernel(self, specs: KernelSpecManager) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
        """A started kernel and its client; killed at the end."""
        manager = KernelManager(kernel_name=NAME, kernel_spec_manager=specs, config=self._config, context=self._context)
        manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = manager.client()
        try:
            client.start_channels()
            yield manager, client
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    def waiting(self) -> contextlib.AbstractContextManager[tuple[KernelManager, BlockingKernelClient]]:
        """A kernel of ours."""
        return self._kernel(self._ours)

    @contextlib.contextmanager
    def _last_moment(self) -> Iterator[Callable[[], None]]:
        """While somebody else's build verifies the prefix; call what this gives to publish it."""
        fingerprint = self.generation.fingerprint
        self.generation.marker.unlink()
        with contextlib.ExitStack() as stack:
            lock = self.site.store.beside(NAME, fingerprint, "lock")
            stack.enter_context(locks.exclusive(lock, timeout=60, waiting_for="a benchmark"))
            now = time.time()
            write_json(
                self.site.store.beside(NAME, fingerprint, "progress.json"),
                {"name": NAME, "fingerprint": fingerprint, "phase": Phase.VERIFY.value, "started": now, "updated": now},
            )

            def publish() -> None:
                self.generation.publish(self.record)
                stack.close()

            try:
                yield publish
            finally:
                if not self.generation.marker.exists():
                    publish()

    def first_answer(self) -> float:
        """Seconds from the request until a stock kernel says what it is."""
        began = time.perf_counter()
        with self._kernel(self._stock) as (_, client):
            client.kernel_info(reply=True, timeout=LAUNCH_SECONDS)
            return time.perf_counter() - began

    def launched(self) -> float:
        """Seconds from the request until a stock kernel's first cell is answered."""
        began = time.perf_counter()
        with self._kernel(self._stock) as (_, client):
            _run(client)
            return time.perf_counter() - began

    def handed_over(self) -> float:
        """Seconds from the marker until the cell that waited is answered."""
        with self._last_moment() as publish, self.waiting() as (_, client):
            client.kernel_info(reply=True, timeout=LAUNCH_SECONDS)
            asked = client.execute(CELL)
            _await_display(client)
            began = time.perf_counter()
            publish()
            while client.get_shell_msg(timeout=LAUNCH_SECONDS)["parent_header"].get("msg_id") != asked:
                pass
            return time.perf_counter() - began

    @contextlib.contextmanager
    def relayed(self) -> Iterator[BlockingKernelClient]:
        """A client of a kernel that waited and is a relay now."""
        with self._last_moment() as publish, self.waiting() as (_, client):
            client.kernel_info(reply=True, timeout=LAUNCH_SECONDS)
            publish()
            _run(client)
            yield client

    @contextlib.contextmanager
    def direct(self) -> Iterator[BlockingKernelClient]:
        """A client of the same prefix's kernel."""
        with self._kernel(self._stock) as (_, client):
            _run(client)
            yield client

    def memory(self) -> float:
        """Megabytes that a waiting kernel with a cell under display has in memory."""
        with self._last_moment(), self.waiting() as (manager, client):
            client.execute(CELL)
            _await_display(client)
            status = Path(f"/proc/{manager.provisioner.process.pid}/status").read_text()  # type: ignore[union-attr]
            (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
            return int(kilobytes) * 1024 / 1e6

    def processor(self) -> float:
        """Per cent of a processor that a waiting kernel with a cell under display takes while a build verifies."""
        with self._last_moment(), self.waiting() as (manager, client):
            client.execute(CELL)
            _await_display(client)
            time.sleep(1)
            status = Path(f"/proc/{manager.provisioner.process.pid}/stat")  # type: ignore[union-attr]
            before, began = _computed(status), time.perf_counter()
            time.sleep(10)
            return 100 * (_computed(status) - before) / (time.perf_counter() - began)


def _computed(status: Path) -> float:
    """Seconds that a process has computed so far, from its /proc/<pid>/stat."""
    fields = status.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _picked(stage: _Stage) -> float:
    """Seconds from the request until a kernel without an environment answers; its build is then cancelled."""
    store = stage.site.store
    (kernel,) = store.index().kernels
    began = time.perf_counter()
    with stage.waiting() as (_, client):
        client.kernel_info(reply=True, timeout=LAUNCH_SECONDS)
        seconds = time.perf_counter() - began
        deadline = time.monotonic() + 60
        while not cancel_build(store, kernel):  # the builder may not hold its lock yet
            assert time.monotonic() < deadline, "no build was started"
            time.sleep(0.05)
    assert not store.generations(NAME)
    store.beside(NAME, kernel.fingerprint, "progress.json").unlink()
    return seconds


def _run(client: BlockingKernelClient) -> None:
    reply = client.execute(CELL, reply=True, timeout=LAUNCH_SECONDS)
    assert reply["content"]["status"] == "ok", reply


def _await_display(client: BlockingKernelClient) -> None:
    """Until something is shown under a cell: it is held then. A client as quick as this may miss the first drawing."""
    while "display_data" not in client.get_iopub_msg(timeout=LAUNCH_SECONDS)["msg_type"]:
        pass


def _trip(client: BlockingKernelClient) -> float:
    began = time.perf_counter()
    client.execute("", reply=True, timeout=LAUNCH_SECONDS)
    return time.perf_counter() - began


def _flood(client: BlockingKernelClient) -> float:
    """Until the last byte and the kernel's `idle` are here."""
    while client.iopub_channel.msg_ready():
        client.get_iopub_msg(timeout=1)
    began = time.perf_counter()
    asked = client.execute(FLOOD, store_history=False)
    size = 0
    while True:
        message: dict[str, Any] = client.get_iopub_msg(timeout=LAUNCH_SECONDS)
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["msg_type"] == "stream":
            size += len(message["content"]["text"])
        elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
    seconds = time.perf_counter() - began
    assert size == 100_000_000, size
    client.get_shell_msg(timeout=LAUNCH_SECONDS)
    return seconds
