"""Does a new prefix work? A real kernel is started in it, with the environment that users' kernels will get."""

from __future__ import annotations

import os
import queue
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import process
from .errors import ProbeError
from .temporary import TemporaryFolder

START_SECONDS = 120
RUN_SECONDS = 120


@dataclass(frozen=True)
class Probe:
    """Code that must run in the kernel when `module` can be imported there; empty: always."""

    name: str
    module: str
    code: str


PROBES = (
    Probe(
        "the interpreter",
        "",
        "import sys, os\nassert os.path.samefile(sys.prefix, {prefix!r}), f'sys.prefix is {{sys.prefix}}'",
    ),
    Probe(
        "pyproj with PROJ's data",
        "pyproj",
        "import pyproj\nx, y = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(1, 1)\n"
        "assert abs(x - 111319.49) < 1 and abs(y - 111325.14) < 1, (x, y)",
    ),
    Probe(
        "osgeo with GDAL's and PROJ's data",
        "osgeo",
        "from osgeo import gdal, osr\nosr.UseExceptions()\nsrs = osr.SpatialReference()\n"
        "assert srs.ImportFromEPSG(3857) == 0\nassert srs.ExportToWkt()",
    ),
    Probe(
        "rasterio with GDAL's and PROJ's data",
        "rasterio",
        "import rasterio, rasterio.crs\nassert rasterio.crs.CRS.from_epsg(3857).to_wkt()",
    ),
)


def run_probes(python: str, prefix: Path, env: Mapping[str, str], log: Any) -> None:
    """Start a kernel in a prefix and run every probe that applies. Raises ProbeError with the output."""
    with TemporaryFolder("probe", sockets=True) as folder, _Kernel(python, env, folder) as kernel:
        for probe in PROBES:
            guard = f"import importlib.util as _u\nif _u.find_spec({probe.module!r}):\n" if probe.module else ""
            code = probe.code.format(prefix=str(prefix))
            code = guard + ("".join(f"    {line}\n" for line in code.splitlines()) if guard else code)
            began = time.monotonic()
            fault = kernel.execute(code)
            log(f"# probe: {probe.name}: {'failed' if fault else 'ok'} in {time.monotonic() - began:.2f} s")
            if fault:
                log(fault)
                last = fault.strip().splitlines()[-1]  # the exception; the log has the whole traceback
                raise ProbeError(f"The environment was built, but {probe.name} can't be used.", detail=last)


class _Kernel:
    """An ipykernel of the prefix, reached over ipc by jupyter_client."""

    def __init__(self, python: str, env: Mapping[str, str], folder: Path) -> None:
        self._python, self._env, self._folder = python, env, folder
        self._output = folder / "output"

    def __enter__(self) -> _Kernel:
        from jupyter_client.blocking import BlockingKernelClient
        from jupyter_client.connect import write_connection_file

        connection_file, _ = write_connection_file(
            str(self._folder / "kernel.json"),
            transport="ipc",
            ip=str(self._folder / "s"),
            key=secrets.token_hex(16).encode(),
        )
        self._process = process.start(
            process.tied([self._python, "-m", "ipykernel_launcher", "-f", connection_file]),
            env={**self._env, "JPY_PARENT_PID": str(os.getpid())},
            cwd=self._folder,
            output=self._output,
        )
        self._client = BlockingKernelClient(connection_file=connection_file)
        try:
            self._client.load_connection_file()
            self._client.start_channels()
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.stop_channels()
        process.stop(self._process, grace=3)

    def _wait(self) -> None:
        """Until the kernel answers. Raises ProbeError with what it printed when it ends or stays silent."""
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            self._client.kernel_info()
            try:
                if self._client.get_shell_msg(timeout=1)["msg_type"] == "kernel_info_reply":
                    return
            except queue.Empty:
                continue
        state = "ended at once" if self._process.poll() is not None else f"gave no answer in {START_SECONDS} s"
        raise ProbeError(
            f"The environment was built, but its kernel {state}.",
            detail=self._printed() or "It printed nothing.",
        )

    def execute(self, code: str) -> str:
        """Run code in the kernel; the traceback or the reason when it fails, else nothing."""
        try:
            # Only the reply on the shell channel counts: output published before our subscription took hold is lost.
            reply = self._client.execute(code, store_history=False, allow_stdin=False, reply=True, timeout=RUN_SECONDS)
        except TimeoutError:
            ended = self._process.poll() is not None
            return f"the kernel {'died' if ended else f'gave no answer in {RUN_SECONDS} s'}\n{self._printed()}"
        content = reply["content"]
        if content["status"] == "ok":
            return ""
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content.get("traceback") or [str(content)]))

    def _printed(self) -> str:
        try:
            return self._output.read_text(errors="replace")[-8000:].strip()
        except OSError:
            return ""
