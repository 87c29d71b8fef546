"""`jupyter sepal watch`: a real daemon on real repositories and builds, watched through what it writes and says."""

from __future__ import annotations

import calendar
import configparser
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import waits
from conftest import SMALL, Site, commit
from slow import slow_channel

from sepal_provisioner import audit, locks
from sepal_provisioner.commands.app import SepalApp
from sepal_provisioner.notify import Notifier
from sepal_provisioner.progress import Progress
from sepal_provisioner.store import State
from sepal_provisioner.watchfile import lock_path, status_path

UNIT = Path(__file__).resolve().parents[1] / "examples" / "sepal-watch.service"
BROKEN = "channels: [conda-forge]\ndependencies: [python, broken-dep]\n"
PATIENCE = 240  # seconds: no figure that is measured, only the end of a test that would hang


def until(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """Wait for a condition; fails when the process that it depends on has ended."""

    def look() -> Any:
        found = condition()
        assert found or process is None or process.poll() is None, "the watch has ended"
        return found

    return waits.until(look, "what the watch does", PATIENCE)


def command(site: Site, *arguments: str) -> list[str]:
    """The command line of a watch."""
    return [sys.executable, "-m", "jupyter", "sepal", "watch", f"--config={site.config()}", *arguments]


@contextlib.contextmanager
def watching(site: Site, *arguments: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A watch that runs; it is killed at the end where the test did not end it."""
    log = site.root / "watch.log"
    with (
        log.open("a") as stream,
        subprocess.Popen(
            command(site, *arguments),
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env={**os.environ, **(env or {})},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def status(site: Site) -> dict[str, Any]:
    """What watch.json says, or nothing where it is not there yet."""
    try:
        found: dict[str, Any] = json.loads(status_path(site.store).read_text())
    except FileNotFoundError:
        return {}
    return found


def log(site: Site) -> str:
    """What the watches of a site have said."""
    return (site.root / "watch.log").read_text()


def state(site: Site, name: str) -> State | None:
    """A kernel's state, None while no catalog names it."""
    kernel = next((kernel for _, kernel in site.stores.kernels() if kernel.name == name), None)
    return site.stores.observe(kernel).state if kernel else None


def prefixes(site: Site, name: str) -> list[str]:
    """The ready prefixes of a kernel."""
    return [generation.path.name for generation in site.store.complete(name)]


def test_it_syncs_builds_and_follows_a_change(conda_site: Site) -> None:
    """What the catalog names is built; a changed file is built in the background while the older version stays, and
    a broken one is told once, with its code, and costs nothing else. SIGTERM ends it with 0 and its last words."""
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.add("broken", {"sepal_environment.yml": BROKEN})
    counted = conda_site.root / "sepal.prom"
    with watching(conda_site, "--interval=1", "--jobs=2", "--json", f"--metrics={counted}") as watch:
        until(lambda: state(conda_site, "venv-one") is State.READY, watch)
        (first,) = prefixes(conda_site, "venv-one")
        commit(conda_site.repository("one"), {"sepal_environment.yml": SMALL.replace("python,", "python, numpy,")})
        until(lambda: len(prefixes(conda_site, "venv-one")) == 2, watch)
        assert first in prefixes(conda_site, "venv-one")
        until(lambda: "[unsolvable]" in log(conda_site) and status(conda_site)["state"] == "idle", watch)
        seen = status(conda_site)
        assert (seen["pid"] > 0, seen["host"], seen["building"]) == (True, socket.gethostname(), [])
        assert seen["last_sync"] >= seen["since"] and seen["next_sync"] > seen["last_sync"] and seen["problems"] == 0
        assert seen["last_error"].startswith("venv-broken: No set of packages")
        attempts = conda_site.stores.observe(conda_site.stores.find("venv-broken")[1]).progress
        assert attempts is not None and attempts.attempt == 1, "a failure is remembered, however many syncs follow"
        until(lambda: 'sepal_builds_total{result="ok"} 2.0' in counted.read_text(), watch)
        words = counted.read_text()
        assert (
            'sepal_build_failures_total{code="unsolvable"} 1.0' in words and 'sepal_kernels{state="ready"} 1.0' in words
        )
        assert 'sepal_build_phase_seconds_count{phase="compile"} 2.0' in words
        watch.send_signal(signal.SIGTERM)
        assert watch.wait(60) == 0
        assert watch.stdout is not None and json.loads(watch.stdout.read())["state"] == "stopped"
    assert status(conda_site)["state"] == "stopped" and not locks.held(lock_path(conda_site.store))
    said = log(conda_site)
    assert said.count("[unsolvable]") == 1 and "venv-one: ready after" in said and "venv-one: changed" in said
    assert "Traceback" not in said and said.rstrip().endswith("stopped")


def test_what_failed_is_built_again_later_and_later(conda_site: Site) -> None:
    """A build that fails is repeated without anybody's doing, each time after twice the wait of the time before, and
    what the watch said of it once it does not say again."""
    conda_site.options["retry_after"] = 1
    conda_site.add("broken", {"sepal_environment.yml": BROKEN})
    with watching(conda_site, "--interval=1") as watch:
        observed = until(lambda: (now := attempt(conda_site, "venv-broken")) and now.attempt >= 3 and now, watch)
    assert observed.error == "unsolvable"
    ended = [line["time"] for line in audit.lines(conda_site.store.root) if line["action"] == "build"]
    moments = [calendar.timegm(time.strptime(moment, "%Y-%m-%dT%H:%M:%SZ")) for moment in ended]
    assert moments[1] - moments[0] >= 1 and moments[2] - moments[1] >= 2
    assert log(conda_site).count("[unsolvable]") == 1


def attempt(site: Site, name: str) -> Progress | None:
    """The progress of a build that ended, or None."""
    progress = site.stores.observe(site.stores.find(name)[1]).progress if name in names(site) else None
    return progress if progress is not None and progress.ended else None


def names(site: Site) -> list[str]:
    """The kernels that the index lists so far."""
    return [kernel.name for _, kernel in site.stores.kernels()]


def test_a_stopped_watch_leaves_its_build_to_finish(conda_site: Site, channel: Path) -> None:
    """Ctrl-C during a build ends the watch with 0 and says which build goes on; the next watch joins that build."""
    with slow_channel(channel, 300_000) as (slow, line):
        conda_site.mirrors = slow
        conda_site.add("long", {"sepal_environment.yml": SMALL})
        with watching(conda_site) as watch:
            until(lambda: status(conda_site).get("building") == ["venv-long"], watch)
            kernel = conda_site.stores.find("venv-long")[1]
            lock = conda_site.store.beside(kernel.name, kernel.fingerprint, "lock")
            until(lambda: locks.held(lock), watch)
            watch.send_signal(signal.SIGINT)
            assert watch.wait(60) == 0
        assert "1 builds go on: venv-long" in log(conda_site) and locks.held(lock)
        with watching(conda_site) as watch:
            until(lambda: status(conda_site).get("building") == ["venv-long"], watch)
            line.open()
            until(lambda: "venv-long: ready after" in log(conda_site), watch)
    assert [generation.number for generation in conda_site.store.generations("venv-long")] == [1]


def test_there_is_one_watch_for_a_store(site: Site) -> None:
    """A second one ends with `busy`, and names the first."""
    with watching(site) as watch:
        until(lambda: locks.held(lock_path(site.store)) and status(site), watch)
        second = subprocess.run(command(site), capture_output=True, text=True, check=False)
        assert second.returncode == 8 and "Another `jupyter sepal watch`" in second.stderr
        assert f"process {status(site)['pid']}" in second.stderr
        told = subprocess.run(
            [sys.executable, "-m", "jupyter", "sepal", "status", f"--config={site.config()}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"process {watch.pid}" in told.stdout, "the process that was started is the watch itself"


def test_what_no_catalog_names_is_pruned(site: Site) -> None:
    """With --prune, once there is nothing to build, what the catalog dropped is removed and noted."""
    site.add("gone", {"README.md": "no kernel"})
    site.sync()
    checkout = site.store.apps / "gone"
    assert checkout.is_dir()
    site.apps.clear()
    site.write()
    with watching(site, "--prune", "--interval=1") as watch:
        until(lambda: not checkout.exists(), watch)
        until(lambda: f"removed {checkout}" in log(site), watch)


def test_a_sync_that_fails_waits_longer(site: Site) -> None:
    """No catalog can be read: the reason is in watch.json, and the next sync is later than after a good one."""
    site.catalog.unlink()
    with watching(site, "--interval=50") as watch:
        seen = until(lambda: (now := status(site)).get("last_error") and now, watch)
    assert "can't be read" in seen["last_error"] and seen["next_sync"] - seen["since"] >= 100
    assert seen["last_sync"] is None


def test_systemd_is_told(site: Site, tmp_path: Path) -> None:
    """With NOTIFY_SOCKET set it says READY=1, what it does, that it is alive, and that it stops."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        heard: list[str] = []

        def hear(words: str) -> None:
            while not any(line.startswith(words) for line in heard):
                heard.extend(manager.recv(65536).decode().splitlines())

        with watching(site, env=env) as watch:
            for words in ("READY=1", "STATUS=idle", "WATCHDOG=1"):
                hear(words)
            watch.send_signal(signal.SIGTERM)
            hear("STOPPING=1")
            assert watch.wait(60) == 0
    assert "STATUS=syncing" in heard


def test_without_a_service_manager_nobody_is_told() -> None:
    """No socket, or one that is gone, is no error."""
    Notifier({}).tell("READY=1")
    Notifier({"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "1"}).alive()


def test_mistakes_of_a_watch_are_told_in_words(site: Site) -> None:
    """Without a catalog, or where the store can't be written, it does not begin."""
    site.options["catalogs"] = []
    done = subprocess.run(command(site), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "c.Sepal.catalogs" in done.stderr
    site.options |= {"catalogs": [str(site.catalog)], "store": "/proc/nowhere"}
    done = subprocess.run(command(site), capture_output=True, text=True, check=False)
    assert done.returncode == 7 and "Traceback" not in done.stderr


def test_the_example_unit_is_sound(tmp_path: Path) -> None:
    """systemd accepts the unit (where it is there to ask), and what it starts is a verb with options that exist."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify" and service["KillMode"] == "process"
    program, name, verb, *options = service["ExecStart"].split()
    assert program.endswith("/jupyter") and name == "sepal"
    app = SepalApp.subcommands[verb][0]
    known = {*app.aliases, *app.flags}
    assert {option.removeprefix("--").partition("=")[0] for option in options} <= known
    if analyze := shutil.which("systemd-analyze"):
        copy = tmp_path / UNIT.name
        copy.write_text(UNIT.read_text().replace(program, shutil.which("true") or "/bin/true"))
        done = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
        if "Failed to initialize manager" in done.stderr:
            pytest.skip("systemd can't be asked here")
        assert not done.returncode and UNIT.name not in done.stderr, done.stderr
