"""Listing kernels: our `get_all_specs` against jupyter_client's own for the same kernels as kernel.json folders.

JupyterLab asks for every spec each time somebody looks at the launcher, so this is what every user waits for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from measure import Measure, clocked, in_turns

from sepal_provisioner import SepalKernelSpecManager
from sepal_provisioner.generation import Generation, Record
from sepal_provisioner.index import Index, Kernel, write_index
from sepal_provisioner.kernelspec import RESOURCES
from sepal_provisioner.settings import Sepal
from sepal_provisioner.store import Store

ROUNDS = 40
COLD_ROUNDS = 5
BOUNDS = {1000: 0.15, 20: 1.0}
LONG_AGO = time.time() - 86_400  # a store is not written in the moment in which it is listed


def measures(work: Path) -> Iterator[Measure]:
    """Warm and cold, for many kernels and for few."""
    for count, bound in BOUNDS.items():
        yield from _measure(work / f"listing-{count}", count, bound)


def _measure(folder: Path, count: int, bound: float) -> Iterator[Measure]:
    python3 = folder / "python3-only"
    _write_spec(python3 / "python3", {"display_name": "Python 3 (ipykernel)"})
    settings = Sepal(store=str(folder / "store"), refresh_interval=0)
    fill_store(Store(folder / "store"), count)

    def our_manager() -> KernelSpecManager:
        return SepalKernelSpecManager(settings=settings, kernel_dirs=[str(python3)])

    ours = our_manager()
    _write_as_folders(ours.get_all_specs(), folder / "kernels")

    def stock_manager() -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[str(folder / "kernels")])

    stock = stock_manager()
    _check(ours.get_all_specs(), stock.get_all_specs(), count)
    sides = {"ours": lambda: clocked(ours.get_all_specs), "stock": lambda: clocked(stock.get_all_specs)}
    taken = in_turns(f"listing {count} kernels", sides, ROUNDS, warm=3)
    yield Measure(f"list {count} kernels", tuple(taken["ours"]), tuple(taken["stock"]), bound)
    cold = {
        "ours": lambda: clocked(lambda: our_manager().get_all_specs()),
        "stock": lambda: clocked(lambda: stock_manager().get_all_specs()),
    }
    taken = in_turns(f"first listing of {count} kernels", cold, COLD_ROUNDS, warm=1)
    yield Measure(f"list {count} kernels, first call", tuple(taken["ours"]), tuple(taken["stock"]))


def fill_store(store: Store, count: int) -> None:
    """An index of `count` kernels; every other one is built, every third has a logo of its own."""
    kernels = [_kernel(number) for number in range(count)]
    for number, kernel in enumerate(kernels):
        if number % 2 == 0:
            _publish(store, kernel)
        if kernel.resources:
            _copy_logos(store.resources / kernel.resources)
    write_index(store.index_path, Index(written=LONG_AGO, kernels=tuple(kernels)))


def _kernel(number: int) -> Kernel:
    name = f"application_{number:04d}"
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Kernel(
        name=f"venv-{name}",
        app=name,
        label=f"Application {number}: forest change",
        repository=f"https://github.com/example/{name}",
        checkout=name,
        commit=digest[:40],
        environment_file="sepal_environment.yml",
        fingerprint=digest[-16:],
        catalog="https://example.org/apps.json",
        resources=f"venv-{name}" if number % 3 == 0 else "",
    )


def _publish(store: Store, kernel: Kernel) -> None:
    """A ready prefix as a build leaves it, without its packages' files."""
    path = store.folder(kernel.name) / f"{kernel.fingerprint}-1"
    packages = [
        {"source": "conda", "name": f"package-{n}", "version": f"1.{n}", "build": "py312h_0", "channel": "conda-forge"}
        for n in range(150)
    ]
    record = Record(
        name=kernel.name,
        fingerprint=kernel.fingerprint,
        engine="rattler 0.28.0",
        commit=kernel.commit,
        repository=kernel.repository,
        environment_file=kernel.environment_file,
        built=LONG_AGO,
        seconds=95.5,
        size=2_100_000_000,
        activation={"PROJ_DATA": f"{path}/share/proj", "GDAL_DATA": f"{path}/share/gdal"},
        durations={"solve": 2.5, "download": 40.0, "link": 21.0, "compile": 20.0, "verify": 12.0},
        packages=packages,
    )
    Generation(path, kernel.fingerprint, 1).publish(record)
    for what in ("lock", "log", "request.json", "progress.json"):
        store.beside(kernel.name, kernel.fingerprint, what).write_text("", encoding="utf-8")
    (path.parent / "current").symlink_to(path.name)
    os.utime(path.parent, (LONG_AGO, LONG_AGO))


def _write_as_folders(specs: dict[str, Any], target: Path) -> None:
    """The same kernels as jupyter_client's own manager knows them, with no more in kernel.json than it needs."""
    for name, entry in specs.items():
        _write_spec(target / name, {"display_name": entry["spec"]["display_name"], "metadata": {"debugger": True}})


def _write_spec(folder: Path, more: dict[str, Any]) -> None:
    _copy_logos(folder)
    argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "language": "python", **more}), encoding="utf-8")


def _copy_logos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for logo in RESOURCES.glob("logo-*"):
        shutil.copy(logo, folder)


def _check(ours: dict[str, Any], stock: dict[str, Any], count: int) -> None:
    """Both list the same kernels under the same names, and ours knows which are ready."""
    shown = [{name: entry["spec"]["display_name"] for name, entry in specs.items()} for specs in (ours, stock)]
    assert shown[0] == shown[1], "the two managers list different kernels"
    states = [e["spec"]["metadata"]["sepal"]["state"] for n, e in ours.items() if n.startswith("venv-")]
    assert (states.count("ready"), states.count("missing")) == (count - count // 2, count // 2), "unexpected states"
