"""The dashboard of 300 kernels, and what eight builds cost everybody else on the server that shows them."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from listing import fill_store
from measure import Measure, say
from sites import TOKEN, JupyterServer, ensure_channel, geo_file, site_of

from sepal_provisioner.index import Index, write_index

KERNELS, BUILDS, REQUESTS = 300, 8, 60
FIRST_BYTE, SLOWEST, UNAFFECTED = 0.05, 0.2, 1.1


def measures(work: Path) -> Iterator[Measure]:
    """A real Jupyter server; the builds are real ones too, asked for through its API."""
    files = [geo_file(("gdal", "pyproj", "numpy"), f"VERSION_{number}") for number in range(BUILDS)]
    site = site_of(work / "site", ensure_channel(), files)
    ours = site.store.index().kernels
    fill_store(site.store, KERNELS - BUILDS)
    write_index(site.store.index_path, Index(time.time(), (*ours, *site.store.index().kernels)))
    with JupyterServer(site.config()) as server:
        get = partial(_get, server)
        for path in ("/sepal", "/sepal/api/kernels", "/api/kernelspecs"):
            get(path)
        say("dashboard: nothing is built")
        first = tuple(get("/sepal")[0] for _ in range(REQUESTS))
        before = tuple(get("/api/kernelspecs")[1] for _ in range(REQUESTS))
        say(f"dashboard: {BUILDS} builds")
        for kernel in ours:
            status, answer = server.request("POST", f"/sepal/api/kernels/{kernel.name}/build", {"force": False})
            assert status == 202, answer
        during: list[float] = []
        every: list[float] = []
        while _building(server, {kernel.name for kernel in ours}):
            during.append(get("/api/kernelspecs")[1])
            every += [get("/sepal")[1], get("/sepal/api/kernels")[1], during[-1]]
            time.sleep(0.05)
    assert len(during) > 20, "the builds ended before anything was measured"
    yield Measure("dashboard's first byte", first, (FIRST_BYTE,), 1.0)
    yield Measure("slowest request during builds", (max(every),), (SLOWEST,), 1.0)
    yield Measure("kernelspecs during builds", tuple(during), before, UNAFFECTED)


def _get(server: JupyterServer, path: str) -> tuple[float, float]:
    """Seconds until the first byte of an answer, and until the last."""
    request = urllib.request.Request(server.url + path, headers={"Authorization": f"token {TOKEN}"})
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read(1)
        first = time.perf_counter() - began
        response.read()
        return first, time.perf_counter() - began


def _building(server: JupyterServer, wanted: set[str]) -> bool:
    """Whether any of the builds still runs, or has not begun."""
    kernels = server.get("/sepal/api/kernels")["kernels"]
    return any(kernel["state"] != "ready" for kernel in kernels if kernel["name"] in wanted)
