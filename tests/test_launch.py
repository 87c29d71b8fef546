"""Launching from a ready prefix: fast, read-only, locked, and the same for clients that never load our manager."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Site

from sepal_provisioner.errors import StoreError, UnknownKernelError
from sepal_provisioner.index import write_index
from sepal_provisioner.launch import prepare, ready_generation
from sepal_provisioner.launcher import main
from sepal_provisioner.store import Store

NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code", "id": "one", "metadata": {}, "execution_count": None, "outputs": [],
            "source": "import os, sys\nprint(sys.prefix)\nprint(os.environ.get('PROJ_LIB'))",
        }
    ],
    "metadata": {"kernelspec": {"name": "venv-geo", "display_name": "x", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}  # fmt: skip

READY_LAUNCH = """
import os, sys
from sepal_provisioner.launch import prepare, ready_generation
from sepal_provisioner.settings import Sepal
from sepal_provisioner.store import Stores

settings = Sepal(**{settings!r})
stores = Stores.of(settings.store)
wrong = []

def watch(event, arguments):
    if event.split(".")[0] in ("subprocess", "socket") or event in ("os.fork", "os.exec", "os.mkdir", "os.rename"):
        wrong.append((event, arguments))
    if event == "open" and arguments[2] & 0o3:
        wrong.append((event, arguments))

sys.addaudithook(watch)
launch = prepare(ready_generation(stores, "venv-geo"), "venv-geo", os.environ, settings)
assert launch.lock >= 0
assert not wrong, wrong
"""


def test_a_ready_launch_writes_nothing_and_starts_nothing(built: Site) -> None:
    """The interpreter's audit sees no process, no socket and no file opened for writing."""
    subprocess.run([sys.executable, "-B", "-c", READY_LAUNCH.format(settings=built.values())], check=True, cwd="/")


def test_exceptions_to_the_policy_are_per_kernel(built: Site) -> None:
    """A variable that an administrator excepts for one kernel is inherited there and nowhere else."""
    settings = built.settings()
    settings.keep_variables = {"venv-geo": ["PYTHONPATH"]}
    base = {"PATH": "/usr/bin", "PYTHONPATH": "/opt/site"}
    for name, expected in (("venv-geo", "/opt/site"), ("venv-wheels", None)):
        generation = ready_generation(built.stores, name)
        assert generation is not None
        launch = prepare(generation, name, base, settings)
        assert launch.env.get("PYTHONPATH") == expected
        launch.close()


def test_a_kernel_that_left_the_catalog_still_restarts(conda_site: Site) -> None:
    """When the index no longer names a kernel, its newest prefix is still found; a name nobody ever had is not."""
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    generation = conda_site.build("venv-one")
    write_index(conda_site.store.index_path, type(conda_site.store.index())())
    assert ready_generation(conda_site.stores, "venv-one") == generation
    with pytest.raises(UnknownKernelError):
        ready_generation(conda_site.stores, "venv-never")


def test_a_damaged_marker_is_told_with_the_remedy(conda_site: Site, tmp_path: Path) -> None:
    """A marker that can't be read gives the command that builds again, not a stack trace."""
    generation = Store(tmp_path).next_generation("venv-x", "0" * 16)
    generation.marker.parent.mkdir(parents=True)
    generation.marker.write_text("{")
    with pytest.raises(StoreError, match="jupyter sepal build venv-x --force"):
        prepare(generation, "venv-x", {}, conda_site.settings())
    generation.marker.unlink()
    with pytest.raises(StoreError, match="gone"):
        prepare(generation, "venv-x", {}, conda_site.settings())


@pytest.fixture
def installed(built: Site) -> Site:
    """The built site's kernels, installed for this user by the command line."""
    config = built.config()
    command = [sys.executable, "-m", "jupyter", "sepal", "install", "--user", f"--config={config}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [document["name"] for document in json.loads(done.stdout)["installed"]] == ["venv-geo", "venv-wheels"]
    return built


def geo_prefix(site: Site) -> str:
    """Where venv-geo lives."""
    generation = ready_generation(site.stores, "venv-geo")
    assert generation is not None
    return str(generation.path)


def test_an_installed_spec_is_complete(installed: Site) -> None:
    """kernel.json, the launch file and logos are there; it names no provisioner and shows no password."""
    folder = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels" / "venv-geo"
    files = {"kernel.json", "sepal.json", "logo-64x64.png", "logo-svg.svg", "venv"}
    assert {path.name for path in folder.iterdir()} == files
    assert str((folder / "venv").resolve()) == geo_prefix(installed), "a path to the environment that never changes"
    spec = json.loads((folder / "kernel.json").read_text())
    assert spec["display_name"] == "(venv) App geo"
    assert spec["argv"][1:] == [
        "-m",
        "sepal_provisioner.launcher",
        str(folder / "sepal.json"),
        "-f",
        "{connection_file}",
    ]
    assert "kernel_provisioner" not in spec["metadata"]
    assert (folder / "sepal.json").stat().st_mode & 0o077 == 0


def test_nbclient_runs_an_installed_kernel(installed: Site, tmp_path: Path) -> None:
    """`jupyter execute` without any configuration: the kernel runs in its prefix, with its own data."""
    notebook = tmp_path / "notebook.ipynb"
    notebook.write_text(json.dumps(NOTEBOOK))
    command = [sys.executable, "-m", "jupyter", "execute", "--inplace", str(notebook)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PROJ_LIB": "/usr/share/proj"})
    output = json.loads(notebook.read_text())["cells"][0]["outputs"][0]["text"]
    prefix = geo_prefix(installed)
    assert "".join(output).split() == [prefix, f"{prefix}/share/proj"]


def test_papermill_runs_an_installed_kernel(installed: Site, tmp_path: Path) -> None:
    """papermill, likewise."""
    notebook = tmp_path / "notebook.ipynb"
    notebook.write_text(json.dumps(NOTEBOOK))
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), str(tmp_path / "out.ipynb")]
    subprocess.run(command, check=True, capture_output=True)
    document = json.loads((tmp_path / "out.ipynb").read_text())
    assert geo_prefix(installed) in "".join(document["cells"][0]["outputs"][0]["text"])


def test_jupyter_console_runs_an_installed_kernel(installed: Site) -> None:
    """`jupyter console`, likewise."""
    command = [sys.executable, "-m", "jupyter", "console", "--kernel=venv-geo", "--simple-prompt"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes) as console:
        assert console.stdin is not None and console.stdout is not None
        console.stdin.write("import sys; print('prefix=' + sys.prefix)\n")
        console.stdin.flush()
        printed = ""
        for line in console.stdout:  # the console forgets what a cell prints after its input has ended
            printed += line
            if "prefix=" in line:
                break
        console.stdin.write("exit\n")
        console.stdin.close()
        console.wait(120)
    assert f"prefix={geo_prefix(installed)}\n" in printed, printed


def test_an_installed_kernel_is_built_on_its_first_start(conda_site: Site, tmp_path: Path) -> None:
    """Without our manager, too, the first start builds the environment and then runs the cell."""
    conda_site.add("geo", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    kernels = tmp_path / "kernels"
    jupyter = [sys.executable, "-m", "jupyter"]
    install = [*jupyter, "sepal", "install", "venv-geo", f"--prefix={kernels}", f"--config={conda_site.config()}"]
    subprocess.run(install, check=True, capture_output=True)
    notebook = tmp_path / "notebook.ipynb"
    notebook.write_text(json.dumps(NOTEBOOK))
    env = {**os.environ, "JUPYTER_PATH": str(kernels / "share" / "jupyter")}
    execute = [*jupyter, "execute", "--inplace", "--startup_timeout=300", str(notebook)]
    done = subprocess.run(execute, check=True, capture_output=True, text=True, env=env)
    assert geo_prefix(conda_site) in "".join(json.loads(notebook.read_text())["cells"][0]["outputs"][0]["text"])
    assert "[sepal] venv-geo: Verifying" in done.stderr


def test_a_launcher_that_cannot_start_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing or damaged launch file ends with words and the error's exit code."""
    for text in (None, "{", '{"name": "venv-x"}', '{"name": "venv-x", "settings": {"store": "relative"}}'):
        launch_file = tmp_path / "sepal.json"
        if text is not None:
            launch_file.write_text(text)
        assert main([str(launch_file), "-f", "none"]) == 2
        assert capsys.readouterr().err.startswith("[sepal] ")
