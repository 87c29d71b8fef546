"""Killed at any moment: what a store says afterwards is true, and the next attempt starts clean and succeeds.

A kill point is a moment in the life of a build or a sync. There are many: at each phase of a build as its progress file
names it, and at moments spread over the whole of it. `SEPAL_TEST_KILLS` raises how many are tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SMALL, Site, commit, git, mirrors
from waits import until

from sepal_provisioner import locks, sync
from sepal_provisioner.builds import Build, request_build
from sepal_provisioner.files import read_json
from sepal_provisioner.generation import Generation, Record
from sepal_provisioner.launch import ready_generation
from sepal_provisioner.progress import Phase, read_progress
from sepal_provisioner.request import command
from sepal_provisioner.store import State, Store

KILLS = int(os.environ.get("SEPAL_TEST_KILLS", "6"))
PATIENCE = 120
SOON = 30  # seconds, on a busy machine
DAMAGE = ("index.lock", "shallow.lock", "half a clone", "no HEAD", "empty objects", "no refs")


def build_process(site: Site, name: str) -> subprocess.Popen[bytes]:
    """A build as a launch starts it, in a group of its own."""
    asked = request_build(site.stores, name, site.settings(), force=True)
    assert isinstance(asked, Build)
    return subprocess.Popen(
        command(asked.request), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its children at once, as a machine that goes down does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def prove_honest(site: Site, name: str) -> Generation | None:
    """What the store says is true: a ready prefix works, and anything else is not launched. Returns the ready one."""
    _, kernel = site.stores.find(name)
    environment = site.stores.observe(kernel)
    deadline = time.monotonic() + SOON
    while environment.state is State.BUILDING:  # its commands are killed with it, and may take a moment to die
        assert time.monotonic() < deadline, "the lock of a killed build is free"
        time.sleep(0.01)
        environment = site.stores.observe(kernel)
    ready = ready_generation(site.stores, name)
    assert (ready is not None) == (environment.state is State.READY)
    for generation in site.store.generations(name):
        if generation.marker.exists():
            assert read_json(generation.marker)["name"] == name, "a marker is whole or not there"
            subprocess.run([generation.python, "-c", "import ipykernel, sepal_demo"], check=True)
    return ready


def prove_next_build(site: Site, name: str) -> None:
    """The next build starts clean, succeeds, and leaves nothing of the killed one."""
    generation = site.build(name, force=True)
    subprocess.run([generation.python, "-c", "import ipykernel, sepal_demo"], check=True)
    left = [g for g in site.store.generations(name) if not g.marker.exists()]
    assert left == []
    names = {path.name for path in generation.path.parent.iterdir() if path.name.startswith(".")}
    assert not {name for name in names if name.startswith(".current")}


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory, channel: Path) -> Site:
    """A synced site with one environment, built: its package cache is filled, so that each further build takes seconds.

    The tests kill one build after the other in it.
    """
    site = Site(tmp_path_factory.mktemp("forest"), mirrors(channel))
    site.add("forest", {"sepal_environment.yml": SMALL})
    site.sync()
    site.build("venv-forest")
    return site


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.DONE, Phase.PIP)])
def test_a_build_killed_in_any_phase(forest: Site, phase: Phase) -> None:
    """Killed as soon as its progress names a phase, a build leaves an honest store, and the next one succeeds."""
    path = forest.store.beside("venv-forest", forest.stores.find("venv-forest")[1].fingerprint, "progress.json")
    path.unlink()
    before = ready_generation(forest.stores, "venv-forest")
    process = build_process(forest, "venv-forest")
    deadline = time.monotonic() + PATIENCE
    phases = list(Phase)
    while (seen := read_progress(path)) is None or phases.index(seen.phase) < phases.index(phase):
        assert time.monotonic() < deadline and process.poll() is None, seen
        time.sleep(0.001)
    kill_group(process)
    assert prove_honest(forest, "venv-forest") == before, "what was ready before stays so"
    prove_next_build(forest, "venv-forest")


def test_a_first_build_killed_at_random_moments(forest: Site) -> None:
    """Killed at moments spread over its whole life, with nothing ready before, a build is never half launched."""
    _, kernel = forest.stores.find("venv-forest")
    seconds = forest.build("venv-forest", force=True).record().seconds
    chance = random.Random(20261121)
    for number in range(KILLS):
        for generation in forest.store.generations("venv-forest"):
            shutil.rmtree(generation.path)
        process = build_process(forest, "venv-forest")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds * 1.1 * (number + chance.random()) / KILLS)
        kill_group(process)
        ready = prove_honest(forest, "venv-forest")
        if ready is None:
            assert forest.stores.observe(kernel).state in (State.FAILED, State.MISSING)
    prove_next_build(forest, "venv-forest")


def test_only_the_builder_is_killed(forest: Site) -> None:
    """Where the builder alone is killed, its commands hold the lock until they end: nobody builds beside them."""
    _, kernel = forest.stores.find("venv-forest")
    lock = forest.store.beside("venv-forest", kernel.fingerprint, "lock")
    code = (
        "import subprocess, sys\nfrom pathlib import Path\nfrom sepal_provisioner import locks, process\n"
        "with locks.exclusive(Path(sys.argv[1]), timeout=0, waiting_for='') as held:\n"
        "    process.run(['sleep', '600'], keep=(held,))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(lock)])
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    children = until(lambda: listed.read_text().split(), "its command", PATIENCE)
    process.kill()
    process.wait()
    assert locks.held(lock) and forest.stores.observe(kernel).state in (State.READY, State.BUILDING)
    os.kill(int(children[0]), signal.SIGKILL)
    until(lambda: not locks.held(lock), "the end of its command", PATIENCE)


def sync_process(site: Site) -> subprocess.Popen[bytes]:
    """A sync as a server starts it in the background."""
    site.store.root.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(sync.command(site.settings()), stderr=subprocess.DEVNULL, start_new_session=True)


def test_a_sync_killed_at_random_moments(site: Site) -> None:
    """Killed at any moment, first or later, a sync leaves a whole index and checkouts that the next one heals."""
    inner = site.root / "inner"
    commit(inner, {"data.txt": "submodule\n"})
    for number in range(6):
        site.add(f"app{number}", {"sepal_environment.yml": SMALL, "big.bin": os.urandom(300_000)})
    git(site.repository("app0"), "-c", "protocol.file.allow=always", "submodule", "add", f"file://{inner}", "inner")
    git(site.repository("app0"), "commit", "--quiet", "--message", "Submodule")
    began = time.monotonic()
    sync_process(site).wait()
    seconds = time.monotonic() - began
    chance = random.Random(20261121)
    for number in range(KILLS * 3):
        for app in range(6):
            commit(site.repository(f"app{app}"), {"big.bin": os.urandom(300_000), "n.txt": f"{number}\n"})
        if number % 3 == 0:
            shutil.rmtree(site.store.apps, ignore_errors=True)
        process = sync_process(site)
        time.sleep(seconds * chance.random())
        if number % 2:
            kill_group(process)
        else:
            process.kill()  # its git goes on, and holds the lock until it ends
            process.wait()
        assert len(site.store.index().kernels) == 6, "the index is whole, and loses nothing"
        assert {kernel.name for kernel in site.store.index().kernels} == {f"venv-app{app}" for app in range(6)}
    report = site.sync()
    assert not report.index.problems, report.index.problems
    for app in range(6):
        head = git(site.repository(f"app{app}"), "rev-parse", "HEAD")
        assert git(site.store.apps / f"app{app}", "rev-parse", "HEAD") == head
        assert git(site.store.apps / f"app{app}", "status", "--porcelain") == ""
    assert (site.store.apps / "app0" / "inner" / "data.txt").read_text() == "submodule\n"
    assert not list(site.store.apps.glob(".*")) and not site.store.aside.exists()


@pytest.mark.parametrize(
    "damage", ["index.lock", "shallow.lock", "half a clone", "no HEAD", "empty objects", "no refs"]
)
def test_what_a_killed_git_leaves_heals(site: Site, damage: str) -> None:
    """Locks of git, half a clone and a damaged repository are put right by the next sync."""
    site.add("forest", {"sepal_environment.yml": SMALL})
    site.sync()
    checkout = site.store.apps / "forest"
    commit(site.repository("forest"), {"sepal_environment.yml": SMALL + "name: newer\n"})
    if damage.endswith(".lock"):
        (checkout / ".git" / damage).touch()
    elif damage == "half a clone":
        shutil.rmtree(checkout)
        shutil.copytree(site.repository("forest") / ".git", site.store.apps / ".forest.tmp" / ".git")
        (site.store.apps / ".forest.tmp" / ".git" / "index.lock").touch()
    elif damage == "no HEAD":
        (checkout / ".git" / "HEAD").write_bytes(b"")
    elif damage == "empty objects":
        for path in (checkout / ".git" / "objects").rglob("*"):
            if path.is_file():
                path.chmod(0o644)
                path.write_bytes(b"")
    else:
        shutil.rmtree(checkout / ".git" / "refs")
    report = site.sync()
    (kernel,) = report.index.kernels
    head = git(site.repository("forest"), "rev-parse", "HEAD")
    assert kernel.commit == git(checkout, "rev-parse", "HEAD") == head
    assert (checkout / "sepal_environment.yml").read_text().endswith("newer\n")


def test_a_loss_of_power_leaves_no_marker_before_its_prefix(tmp_path: Path) -> None:
    """The file system and then marker and folder are brought to the disk, in this order, before a prefix is ready."""
    calls = tmp_path / "calls"
    code = (
        "import sys\nfrom pathlib import Path\nfrom sepal_provisioner import files\n"
        "from sepal_provisioner.generation import Generation, Record\nfrom sepal_provisioner.store import Store\n"
        "generation = Store(Path(sys.argv[1])).next_generation('venv-x', '0' * 16)\n"
        "generation.path.mkdir(parents=True)\n(generation.path / 'data').write_text('x')\n"
        "files.sync_file_system(generation.path)\ngeneration.publish(Record('venv-x', '0' * 16, 'a test'))\n"
    )
    if not (strace := shutil.which("strace")):
        traced = [sys.executable, "-X", "dev", "-c", _AUDITED + code, str(tmp_path / "store"), str(calls)]
    else:
        watched = "trace=syncfs,fsync,rename,renameat,renameat2"
        traced = [strace, "-f", "-o", str(calls), "-e", watched, sys.executable, "-c", code, str(tmp_path / "store")]
    subprocess.run(traced, check=True)
    order = [
        name for line in calls.read_text().splitlines() for name in ("syncfs", "fsync", "rename") if f"{name}" in line
    ]
    marker = max(index for index, line in enumerate(order) if line == "rename")
    assert order[marker - 1] == "fsync", "the marker's content first"
    assert order[marker + 1] == "fsync", "then the name that it got"
    assert "syncfs" in order[:marker], "and before both what it stands for"


_AUDITED = """
import ctypes, os
log = open(__import__("sys").argv[2], "w")
def told(name, function):
    def call(*arguments):
        print(name, file=log, flush=True)
        return function(*arguments)
    return call
os.fsync = told("fsync", os.fsync)
os.replace = told("rename", os.replace)
class Library:
    def __init__(self, name): self.syncfs = told("syncfs", lambda descriptor: 0)
ctypes.CDLL = Library
"""


def test_a_marker_that_was_cut_off_is_no_ready_prefix(tmp_path: Path) -> None:
    """A temporary marker that was never renamed, as a kill leaves it, makes nothing ready."""
    store = Store(tmp_path / "store")
    generation = store.next_generation("venv-x", "0" * 16)
    generation.marker.parent.mkdir(parents=True)
    whole = json.dumps({"name": "venv-x", "fingerprint": "0" * 16, "engine": "a test"})
    generation.marker.with_name(".build.json.1.ab").write_text(whole[:20])
    assert store.observe("venv-x", "0" * 16).state is State.MISSING
    generation.publish(Record("venv-x", "0" * 16, "a test"))
    assert store.observe("venv-x", "0" * 16).state is State.READY
