"""Starting a ready kernel: from the request to the reply to the first cell.

Ours goes through the provisioner: index, store, marker, lock, launch environment. The reference is jupyter_client as it
is, with a kernel.json that names the same prefix's interpreter and the same variables.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from measure import Measure, in_turns, say
from sites import NAME, ensure_channel, geo_site
from traitlets.config import Config

from sepal_provisioner import SepalKernelSpecManager
from sepal_provisioner.generation import Generation

PAIRS = 151  # the time that an interpreter takes to start varies by a tenth; the bound is three hundredths
STARTS = 21
BOUND = 1.03
LAUNCH_SECONDS = 120
# A client that finds no listener yet tries again after 100 ms by default: too coarse for a difference of a few.
RECONNECT_MILLISECONDS = 2
DATA = {"PROJ_LIB": "share/proj", "PROJ_DATA": "share/proj", "GDAL_DATA": "share/gdal"}


def measures(work: Path) -> Iterator[Measure]:
    """Both sides start kernels of one prefix, which was built before the clock runs.

    For information also the part that can differ at all: until the kernel's process is there.
    """
    say("launch: building the environment")
    site = geo_site(work / "site", ensure_channel())
    generation = site.build(NAME)
    config = Config(Sepal=site.values())
    ours = SepalKernelSpecManager(config=config)
    stock = KernelSpecManager(kernel_dirs=[str(stock_kernel(work / "kernels", generation))])
    context = zmq.Context()
    context.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MILLISECONDS)

    def manager(specs: KernelSpecManager) -> KernelManager:
        return KernelManager(kernel_name=NAME, kernel_spec_manager=specs, config=config, context=context)

    makers = {"ours": partial(manager, ours), "stock": partial(manager, stock)}
    taken = in_turns("launch", {n: partial(_launch, make, generation) for n, make in makers.items()}, PAIRS, warm=2)
    yield Measure("launch a ready kernel", tuple(taken["ours"]), tuple(taken["stock"]), BOUND)
    taken = in_turns("start", {name: partial(_start, make) for name, make in makers.items()}, STARTS, warm=2)
    yield Measure("launch, until the process is there", tuple(taken["ours"]), tuple(taken["stock"]))


def stock_kernel(folder: Path, generation: Generation) -> Path:
    """The same prefix's kernel as a plain kernel.json."""
    spec = {
        "argv": [generation.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "geo",
        "language": "python",
        "env": {name: str(generation.path / data) for name, data in DATA.items()},
    }
    target = folder / NAME
    target.mkdir(parents=True)
    (target / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


def _launch(make: Callable[[], KernelManager], generation: Generation) -> float:
    """Seconds until the first cell is answered. The kernel is killed afterwards, off the clock."""
    began = time.perf_counter()
    manager = make()
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    try:
        client.start_channels()
        where = {"prefix": "__import__('sys').prefix"}
        reply = client.execute("6 * 7", user_expressions=where, reply=True, timeout=LAUNCH_SECONDS)
        seconds = time.perf_counter() - began
        assert str(generation.path) in reply["content"]["user_expressions"]["prefix"]["data"]["text/plain"], reply
        return seconds
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _start(make: Callable[[], KernelManager]) -> float:
    """Seconds until the kernel's process is there; it is killed at once."""
    began = time.perf_counter()
    manager = make()
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    manager.shutdown_kernel(now=True)
    return seconds
