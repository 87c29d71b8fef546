"""Through a real Jupyter server, over HTTP and websocket: what a person with a notebook gets."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Site, commit, mirrors
from server import JupyterServer
from waits import until

from sepal_provisioner import locks

WHERE_IS_EVERYTHING = """
import json, os, shutil, subprocess, sys
print(json.dumps({
    "prefix": sys.prefix,
    "which python": subprocess.run(["which", "python"], capture_output=True, text=True).stdout.strip(),
    "pip list": subprocess.run("pip --version", shell=True, capture_output=True, text=True).stdout,
    "environment": {name: os.environ.get(name) for name in
        ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "PYTHONPATH", "PYTHONHOME", "CONDA_PREFIX", "VIRTUAL_ENV", "GREETING",
         "PYTHONNOUSERSITE", "LD_LIBRARY_PATH")},
}))
"""
TRANSFORM = """
import pyproj
x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32633", always_xy=True).transform(12.4964, 41.9028)
print(round(x), round(y), pyproj.datadir.get_data_dir())
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the platform exports to every process: an older proj.db, another GDAL's data, somebody's PYTHONPATH."""
    folder = tmp_path_factory.mktemp("foreign")
    proj = folder / "proj"
    proj.mkdir()
    with sqlite3.connect(proj / "proj.db") as database:
        database.execute("create table metadata (key text, value text)")
        database.execute("insert into metadata values ('DATABASE.LAYOUT.VERSION.MAJOR', '1')")
        database.execute("insert into metadata values ('DATABASE.LAYOUT.VERSION.MINOR', '0')")
    (folder / "gdal").mkdir()
    (folder / "gdal" / "header.dxf").write_text("not what you want")
    (folder / "python").mkdir()
    (folder / "python" / "numpy.py").write_text("raise ImportError('a numpy that is not the kernel\\'s')\n")
    return {
        "PROJ_LIB": str(proj),
        "PROJ_DATA": str(proj),
        "GDAL_DATA": str(folder / "gdal"),
        "PYTHONPATH": str(folder / "python"),
        "CONDA_PREFIX": "/opt/some/other/environment",
    }


@pytest.fixture(scope="module")
def server(built: Site, foreign: dict[str, str]) -> Iterator[JupyterServer]:
    with JupyterServer(built.config(**{"Sepal.refresh_interval": 0}), env=foreign) as running:
        yield running


def test_a_conda_kernel_sees_only_its_own_prefix(server: JupyterServer, built: Site, foreign: dict[str, str]) -> None:
    """sys.prefix, `python` and `pip` on PATH, and PROJ's and GDAL's data are the prefix's; what the server exports to
    everybody is not seen, and a variable with `$(…)` stays as its author wrote it."""
    prefix = str(built.stores.observe(built.stores.find("venv-geo")[1]).ready.path)
    with server.kernel("venv-geo") as kernel:
        seen = json.loads(kernel.run(WHERE_IS_EVERYTHING).text)
        assert seen["prefix"] == prefix
        assert seen["which python"] == f"{prefix}/bin/python"
        assert f"{prefix}/lib/" in seen["pip list"]
        env = seen["environment"]
        assert env["PROJ_LIB"] == env["PROJ_DATA"] == f"{prefix}/share/proj"
        assert env["GDAL_DATA"] == f"{prefix}/share/gdal"
        assert env["CONDA_PREFIX"] == prefix
        assert env["PYTHONPATH"] is None and env["VIRTUAL_ENV"] is None
        assert env["GREETING"] == "$(touch /tmp/never) stays as it is"
        assert env["PYTHONNOUSERSITE"] == "1"
        x, y, data = kernel.run(TRANSFORM).text.split()
        assert (x, y) == ("292326", "4642121") or (abs(int(x) - 292_000) < 1000 and abs(int(y) - 4_642_000) < 1000)
        assert data == f"{prefix}/share/proj"
        assert kernel.run("import rasterio.crs; rasterio.crs.CRS.from_epsg(3857).to_wkt()[:6]").result == "'PROJCS'"
        found = kernel.run("from osgeo import gdal; gdal.FindFile('gdal', 'gdalvrt.xsd')").result
        assert f"{prefix}/share/gdal" in found


def test_wheels_that_bring_their_own_data_are_left_alone(server: JupyterServer, built: Site) -> None:
    """For a requirements.txt kernel the foreign variables are gone, not replaced, and its wheels find their data."""
    prefix = str(built.stores.observe(built.stores.find("venv-wheels")[1]).ready.path)
    with server.kernel("venv-wheels") as kernel:
        seen = json.loads(kernel.run(WHERE_IS_EVERYTHING).text)
        env = seen["environment"]
        assert seen["prefix"] == prefix and env["VIRTUAL_ENV"] == prefix
        assert seen["which python"] == f"{prefix}/bin/python" and f"{prefix}/lib/" in seen["pip list"]
        gone = ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "PYTHONPATH", "CONDA_PREFIX")
        assert [env[name] for name in gone] == [None] * len(gone)
        assert kernel.run(TRANSFORM).text.split()[2].startswith(prefix)
        assert kernel.run("import rasterio.crs; rasterio.crs.CRS.from_epsg(3857).to_wkt()[:6]").result == "'PROJCS'"


def test_the_listing_tells_what_a_kernel_is(server: JupyterServer, built: Site) -> None:
    """The launcher's data: display name, language, debugger, logos, and everything of ours below `metadata.sepal`."""
    specs = server.kernelspecs()
    assert {"venv-geo", "venv-wheels", "python3"} <= set(specs)
    spec = specs["venv-geo"]["spec"]
    assert spec["display_name"] == "(venv) App geo"
    assert spec["language"] == "python"
    assert spec["metadata"]["debugger"] is True
    assert set(specs["venv-geo"]["resources"]) == {"logo-64x64", "logo-svg"}
    sepal = spec["metadata"]["sepal"]
    assert sepal["state"] == "ready" and sepal["size"] > 1_000_000 and sepal["last_build"]["seconds"] > 0
    assert sepal["commit"] == built.stores.find("venv-geo")[1].commit
    assert set(spec["metadata"]) == {"debugger", "kernel_provisioner", "sepal"}


def test_a_running_kernel_holds_its_prefix(server: JupyterServer, built: Site) -> None:
    """While a kernel lives its prefix's marker is locked by it, not by the server; afterwards it is free."""
    marker = built.stores.observe(built.stores.find("venv-wheels")[1]).ready.marker
    with server.kernel("venv-wheels") as kernel:
        pid = int(kernel.run("import os; print(os.getpid())").text)
        assert marker.samefile(held_files(pid)[0])
        assert not [path for path in held_files(server.process.pid) if path == marker]
        with pytest.raises(locks.BusyError), locks.alone(marker, waiting_for="a kernel"):
            pass
    until(lambda: not locks.shared(marker), "the kernel's end", 30)


def held_files(pid: int) -> list[Path]:
    """The markers that a process has open."""
    links = [Path(os.readlink(entry)) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    return [path for path in links if path.name == "build.json"]


def test_a_missing_name_is_told_in_the_log(server: JupyterServer) -> None:
    """A client that asks for a kernel nobody names gets an error, and the server's log says what was meant."""
    status, _ = server.request("POST", "/api/kernels", {"name": "venv-gei"})
    assert status >= 400
    assert "venv-gei" in server.printed() and "venv-geo" in server.printed()


def test_the_first_start_builds_and_a_restart_takes_the_newest(conda_site: Site) -> None:
    """From nothing but a catalog: the server syncs, lists, builds on the first start (away from the event loop), and a
    restart after a forced rebuild runs from the new prefix while the old one is left alone."""
    conda_site.add("Small", {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python, sepal-demo]\n"})
    with JupyterServer(conda_site.config()) as server:
        assert server.kernelspecs()["venv-small"]["spec"]["metadata"]["sepal"]["state"] == "missing"
        with server.kernel("venv-SMALL") as kernel:
            first = kernel.run("import sys, sepal_demo; print(sys.prefix)").text.strip()
            assert first.endswith("-1")
            conda_site.build("venv-small", force=True)
            kernel.restart()
            second = kernel.run("import sys; print(sys.prefix)").text.strip()
            assert second.endswith("-2") and Path(first, "bin/python").exists()
        assert server.kernelspecs()["venv-small"]["spec"]["metadata"]["sepal"]["state"] == "ready"


def test_a_failed_build_is_every_cells_answer(conda_site: Site) -> None:
    """A kernel whose environment can't be built starts all the same; each cell says why, in the solver's own words, and
    a restart shows the remembered reason at once instead of building again."""
    conda_site.add("broken", {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python, broken-dep]\n"})
    conda_site.sync()
    with JupyterServer(conda_site.config(**{"Sepal.refresh_interval": 0})) as server:
        with server.kernel("venv-broken") as kernel:
            for _ in range(2):
                reply = kernel.run("1 + 1")
                assert reply.error.startswith("unsolvable: ") and not reply.result
                assert "no-such-library" in reply.traceback and "jupyter sepal log venv-broken" in reply.traceback
            progress = next(conda_site.store.folder("venv-broken").glob("*.progress.json"))
            before = progress.stat().st_mtime_ns
            kernel.restart()
            assert "--force" in kernel.run("1 + 1").traceback
            assert progress.stat().st_mtime_ns == before
        assert server.kernelspecs()["venv-broken"]["spec"]["metadata"]["sepal"]["state"] == "failed"


def test_two_starts_of_one_kernel_share_one_build(conda_site: Site, channel: Path) -> None:
    """Two servers on one store that start the same unbuilt kernel at the same time get one prefix."""
    from concurrent.futures import ThreadPoolExecutor

    assert conda_site.mirrors == mirrors(channel)
    conda_site.add("shared", {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python, sepal-demo]\n"})
    conda_site.sync()
    config = conda_site.config(**{"Sepal.refresh_interval": 0})
    code = "import sys; print(sys.prefix)"

    def start(server: JupyterServer) -> str:
        with server.kernel("venv-shared") as kernel:
            return kernel.run(code).text.strip()

    with JupyterServer(config) as one, JupyterServer(config) as two, ThreadPoolExecutor(2) as pool:
        prefixes = list(pool.map(start, (one, two)))
    assert prefixes[0] == prefixes[1]
    assert len(conda_site.store.generations("venv-shared")) == 1


def test_a_changed_file_is_a_new_environment(conda_site: Site) -> None:
    """After a commit that changes the environment file and a sync the kernel is stale; where the site waits for the new
    one, the next start builds it, and the old prefix stays."""
    text = "channels: [conda-forge]\ndependencies: [python, sepal-demo={}]\n"
    conda_site.add("moving", {"sepal_environment.yml": text.format("1.*")})
    conda_site.sync()
    old = conda_site.build("venv-moving")
    commit(conda_site.repository("moving"), {"sepal_environment.yml": text.format("2.*")})
    conda_site.sync()
    conda_site.options["when_outdated"] = "wait"
    with JupyterServer(conda_site.config(**{"Sepal.refresh_interval": 0})) as server:
        assert server.kernelspecs()["venv-moving"]["spec"]["metadata"]["sepal"]["state"] == "stale"
        with server.kernel("venv-moving") as kernel:
            assert kernel.run("import sepal_demo; print(sepal_demo.__version__)").text == "2.0\n"
    assert old.marker.is_file()
