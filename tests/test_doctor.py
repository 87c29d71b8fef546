"""`jupyter sepal doctor`: a sound site is called sound, and each fault, made for real, is found with what helps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Site

from sepal_provisioner.doctor import Finding, Level
from sepal_provisioner.doctor.frontend import check_front_ends, check_server
from sepal_provisioner.doctor.machine import check_disks, check_engines, check_git, check_variables
from sepal_provisioner.doctor.remote import check_catalogs, check_channels
from sepal_provisioner.doctor.stores import check_searched, check_store
from sepal_provisioner.generation import Generation, Record
from sepal_provisioner.lockfile import conda_platform
from sepal_provisioner.manager import SepalKernelSpecManager
from sepal_provisioner.store import Stores
from sepal_provisioner.watchfile import lock_path, status_path

MANAGER = "@jupyter-widgets/jupyterlab-manager"


def doctor(site: Site, *arguments: str, code: int, env: Mapping[str, str] | None = None) -> str:
    """Its standard output; it must end with `code`."""
    command = [sys.executable, "-m", "jupyter", "sepal", "doctor", f"--config={site.config()}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def worst(findings: Iterable[Finding]) -> Finding:
    """The finding that matters most; one that is no `ok` says why, and a problem says what helps."""
    found = list(findings)
    for finding in found:
        assert finding.what and (finding.level is Level.OK or finding.why), finding
        assert finding.remedy or finding.level in (Level.OK, Level.INFO), finding
    return max(found, key=lambda finding: list(Level).index(finding.level))


def files(folder: Path) -> dict[str, float]:
    """Every file and folder below a folder, and when it was changed."""
    return {str(path): path.lstat().st_mtime for path in folder.rglob("*")}


def publish(site: Site, name: str) -> Generation:
    """A prefix that counts as ready, made by hand."""
    kernel = site.stores.find(name)[1]
    generation = site.store.next_generation(kernel.name, kernel.fingerprint)
    (generation.path / "bin").mkdir(parents=True)
    (generation.path / "bin" / "python").touch()
    generation.publish(Record(kernel.name, kernel.fingerprint, "a test"))
    return generation


def package(folder: Path, name: str, version: str) -> None:
    """A prebuilt front-end package below a folder of labextensions."""
    (folder / name).mkdir(parents=True)
    (folder / name / "package.json").write_text(json.dumps({"name": name, "version": version}))


def test_a_sound_site_is_called_sound(conda_site: Site) -> None:
    """Every kind of check is there, none is a problem, the exit code is 0, and nothing in the store was changed."""
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    before = files(conda_site.store.root)
    found = json.loads(doctor(conda_site, "--json", code=0, env={"PROJ_LIB": "/usr/share/proj"}))
    assert found["problems"] == 0
    levels: dict[str, set[str]] = {}
    for finding in found["findings"]:
        assert list(finding) == ["check", "level", "what", "why", "remedy"]
        levels.setdefault(finding["check"], set()).add(finding["level"])
    assert set(levels) == {"git", "engines", "store", "disk", "variables", "server", "channels", "catalogs"}
    assert levels["variables"] == {"info"} and levels["server"] == levels["catalogs"] == {"ok"}
    after = files(conda_site.store.root)
    assert after == before


def test_a_problem_is_told_and_ends_with_1(site: Site) -> None:
    """As text: what is wrong, why it matters, what helps; --quiet leaves out what is well."""
    site.add("one", {"sepal_environment.yml": SMALL})
    site.sync()
    site.store.root.chmod(0o777)
    text = doctor(site, "--quiet", code=1)
    assert "PROBLEM" in text and "every user may write it" in text and f"chmod go-w {site.store.root}" in text
    assert "1 problems" in text and "git " not in text
    assert "ok      git" in doctor(site, code=1)


def test_git_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No git on PATH, and one that is too old."""
    assert worst(check_git()).level is Level.OK
    monkeypatch.setenv("PATH", str(tmp_path))
    assert worst(check_git()).level is Level.PROBLEM
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.17.1\n")
    (tmp_path / "git").chmod(0o755)
    assert "2.17.1" in worst(check_git()).what and worst(check_git()).level is Level.WARNING


def test_an_engine_that_is_not_there(site: Site) -> None:
    """The engine that the settings ask for is missing; with `auto` the embedded one is enough."""
    assert worst(check_engines(site.settings())).level in (Level.OK, Level.INFO)
    site.options |= {"engine": "micromamba", "micromamba": "/no/such/micromamba"}
    if "not found" in worst(check_engines(site.settings())).what:
        assert "pip install" in worst(check_engines(site.settings())).remedy


def test_faults_of_a_store(site: Site, tmp_path: Path) -> None:
    """No index, a damaged one, a path that is too long, a folder that can't be made, one to search that is gone."""
    site.add("one", {"sepal_environment.yml": SMALL})
    settings = site.settings()
    assert "first sync" in worst(check_store(site.stores, settings)).why
    site.store.root.mkdir()
    assert worst(check_store(site.stores, settings)).level is Level.WARNING
    site.sync()
    assert worst(check_store(site.stores, settings)).level is Level.OK
    site.store.index_path.write_text("{")
    assert worst(check_store(site.stores, settings)).level is Level.PROBLEM
    long = Stores.of(str(tmp_path / ("d" * 120) / ("e" * 120)))
    assert "bytes long" in worst(check_store(long, settings)).what
    assert "can't make it" in worst(check_store(Stores.of(str(site.catalog / "store")), settings)).what
    gone = Stores.of(str(site.store.root), [str(tmp_path / "gone")])
    assert "gone is not there" in worst(check_searched(gone, settings)).what


def test_a_prefix_that_others_can_write(site: Site) -> None:
    """What launches would refuse is found before anybody launches it."""
    site.add("one", {"sepal_environment.yml": SMALL})
    site.sync()
    generation = publish(site, "venv-one")
    assert worst(check_store(site.stores, site.settings())).level is Level.OK
    generation.path.chmod(0o777)
    found = worst(check_store(site.stores, site.settings()))
    assert found.level is Level.PROBLEM and str(generation.path) in found.what


def test_a_store_that_was_not_synced_for_long(site: Site) -> None:
    """An old index is a warning with its age."""
    site.add("one", {"sepal_environment.yml": SMALL})
    site.sync()
    document = json.loads(site.store.index_path.read_text())
    site.store.index_path.write_text(json.dumps({**document, "written": time.time() - 3 * 86_400}))
    found = worst(check_store(site.stores, site.settings()))
    assert found.level is Level.WARNING and "72 h" in found.what


def test_a_watch_that_was_killed(site: Site) -> None:
    """Its last words are not `stopped`, and nobody holds its lock."""
    site.add("one", {"sepal_environment.yml": SMALL})
    site.sync()
    status_path(site.store).write_text(json.dumps({"pid": 1, "host": "h", "state": "building"}))
    lock_path(site.store).touch()
    assert "without a word" in worst(check_store(site.stores, site.settings())).what


def test_a_disk_without_room(site: Site) -> None:
    """Less is free than a build needs."""
    assert worst(check_disks(site.settings(), {})).level in (Level.OK, Level.WARNING)
    site.options["min_free_space"] = 10**18
    assert "jupyter sepal prune" in worst(check_disks(site.settings(), {})).remedy


def test_inherited_variables_are_no_fault() -> None:
    """Each one that a launch decides about is told, with the policy's reason."""
    found = list(check_variables({"PROJ_LIB": "/usr/share/proj", "LD_LIBRARY_PATH": "/x", "HOME": "/root"}))
    assert [finding.level for finding in found] == [Level.INFO, Level.INFO]
    assert "PROJ_LIB=/usr/share/proj" in found[0].what and "jupyter sepal env" in found[0].remedy


def test_faults_of_catalogs(site: Site) -> None:
    """A faulty entry, a catalog that is gone while a copy is used, one that was never read, and none at all."""
    site.add("one", {"sepal_environment.yml": SMALL})
    site.apps.append({"id": "bad"})
    site.write()
    site.sync()
    assert "1 of them faulty" in worst(check_catalogs(site.stores, site.settings())).what
    site.catalog.unlink()
    found = worst(check_catalogs(site.stores, site.settings()))
    assert found.level is Level.WARNING and "a copy of" in found.why
    site.options["catalogs"] = ["http://user:secret@127.0.0.1:9/apps.json"]
    found = worst(check_catalogs(site.stores, site.settings()))
    assert found.level is Level.PROBLEM and "127.0.0.1" in found.what and "secret" not in str(found)
    site.options["catalogs"] = []
    assert "c.Sepal.catalogs" in worst(check_catalogs(site.stores, site.settings())).remedy


def test_faults_of_channels(site: Site, channel: Path, tmp_path: Path) -> None:
    """A sound mirror, one without noarch, one that answers 404, and one that nobody serves; by file and by HTTP."""
    here = tmp_path / "half" / conda_platform()
    here.mkdir(parents=True)
    (here / "repodata.json").write_text('{"packages": {}}')

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing: a test's output is its own."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(channel))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        for target, level, words in (
            (f"file://{channel}/conda-forge", Level.OK, "conda-forge"),
            (f"{url}/conda-forge", Level.OK, "conda-forge"),
            (f"file://{tmp_path}/half", Level.PROBLEM, "half/noarch has no index"),
            (f"{url}/none", Level.PROBLEM, "404"),
            ("http://user:secret@127.0.0.1:9/x", Level.PROBLEM, "refused"),
            ("/no/url", Level.PROBLEM, "neither file nor http"),
            ("", Level.INFO, "left out"),
        ):
            site.mirrors = {"conda-forge": target}
            found = worst(check_channels(site.settings()))
            assert found.level is level and words in found.what and "secret" not in str(found), found
        server.shutdown()


@pytest.mark.parametrize(
    ("config", "level"),
    [
        ({"ServerApp": {"kernel_spec_manager_class": "sepal_provisioner.SepalKernelSpecManager"}}, Level.OK),
        ({"ServerApp": {"kernel_spec_manager_class": SepalKernelSpecManager}}, Level.OK),
        ({"ServerApp": {"kernel_spec_manager_class": "nb_conda_kernels.CondaKernelSpecManager"}}, Level.WARNING),
        ({"ServerApp": {}}, Level.WARNING),
        ({}, Level.WARNING),
    ],
    ids=["ours", "ours as a class", "another one", "none", "no server"],
)
def test_the_servers_slot(config: dict[str, Any], level: Level) -> None:
    """Ours, as a name or a class, is well; another one or none is told with the line to write."""
    found = worst(check_server(config))
    assert found.level is level and ("c.ServerApp" in found.remedy) is (level is not Level.OK)


@pytest.mark.parametrize(
    ("version", "there", "level", "words"),
    [
        ("5.0.15", "5.0.11", Level.OK, "as on the server"),
        ("3.1.8", "5.0.11", Level.WARNING, "the server has 5.0.11"),
        ("0.4.1", "0.5.0", Level.WARNING, "the server has 0.5.0"),
        ("5.0.15", "", Level.WARNING, "jupyterlab_widgets"),
    ],
)
def test_widgets_fit_the_server(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, there: str, level: Level, words: str
) -> None:
    """The front-end packages of a ready prefix against the server's: same major version, another one, none."""
    site.add("one", {"sepal_environment.yml": SMALL})
    site.sync()
    package(publish(site, "venv-one").path / "share" / "jupyter" / "labextensions", MANAGER, version)
    monkeypatch.setattr("sepal_provisioner.doctor.frontend.jupyter_path", lambda name: [str(tmp_path / name)])
    if there:
        package(tmp_path / "labextensions", MANAGER, there)
    found = worst(check_front_ends(site.stores))
    assert found.level is level and words in f"{found.what} {found.remedy}"


def test_the_servers_own_widgets_are_found(site: Site) -> None:
    """The ipywidgets that these tests run with are seen where Jupyter keeps them, and a damaged package is left out."""
    site.add("one", {"sepal_environment.yml": SMALL})
    site.sync()
    folder = publish(site, "venv-one").path / "share" / "jupyter" / "labextensions"
    package(folder, MANAGER, "1.0.0")
    (folder / "broken").mkdir()
    (folder / "broken" / "package.json").write_text("{")
    (found,) = check_front_ends(site.stores)
    assert found.level is Level.WARNING and "the server has 5." in found.what
