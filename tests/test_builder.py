"""The build process: from its lock to its marker, on real environments, with what goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import SMALL, Site, commit
from slow import slow_channel

from sepal_provisioner import engines, locks
from sepal_provisioner.builds import Build, cancel_build, request_build
from sepal_provisioner.errors import (
    BuildError,
    CancelledBuildError,
    ChangedError,
    NoSpaceError,
    PrefixTooLongError,
    ProbeError,
    SepalError,
    SolveError,
    StoreReadOnlyError,
    UnknownKernelError,
)
from sepal_provisioner.progress import Phase, read_progress
from sepal_provisioner.request import Request
from sepal_provisioner.store import State
from sepal_provisioner.users import current_user


def observe(site: Site, name: str):  # type: ignore[no-untyped-def]
    """A kernel's environment as it is now."""
    return site.stores.observe(site.stores.find(name)[1])


def test_a_build_leaves_a_whole_record(built: Site) -> None:
    """The marker says how the prefix was built and what it holds: engine, commit, packages of both kinds, activation,
    durations of each phase, size; `current` points to it and the log is kept with it."""
    generation = observe(built, "venv-geo").ready
    record = generation.record()
    kernel = built.stores.find("venv-geo")[1]
    assert record.engine.startswith(("rattler", "micromamba"))
    assert (record.commit, record.repository) == (kernel.commit, kernel.repository)
    packages = {package["name"]: package for package in record.packages}
    assert packages["python"]["source"] == "conda" and packages["python"]["channel"]
    assert {"ipykernel", "pip", "proj", "libgdal", "gdal", "rasterio"} <= set(packages)
    assert record.activation["PROJ_DATA"] == f"{generation.path}/share/proj"
    assert record.activation["GDAL_DATA"] == f"{generation.path}/share/gdal"
    assert dict(record.variables) == {"GREETING": "$(touch /tmp/never) stays as it is"}
    assert {"solve", "link", "compile", "verify"} <= set(record.durations)
    assert record.size > 50_000_000 and record.seconds > 0
    assert (generation.path.parent / "current").resolve() == generation.path
    log = generation.marker.with_name("build.log").read_text()
    assert log.startswith(f"$ {sys.executable} -m sepal_provisioner.builder")
    assert "probe: pyproj with PROJ's data: ok" in log


def test_pip_packages_are_recorded_as_such(built: Site) -> None:
    """What a requirements.txt kernel holds is in its record too."""
    record = observe(built, "venv-wheels").ready.record()
    assert not record.conda and record.engine.startswith("uv")
    assert {"numpy", "pyproj", "rasterio", "ipykernel"} <= {package["name"] for package in record.packages}


def test_a_prefix_is_compiled(built: Site) -> None:
    """Bytecode is there for every module that a kernel imports: a read-only store never compiles anything again."""
    prefix = observe(built, "venv-geo").ready.path
    for module in ("ipykernel/kernelapp", "numpy/__init__", "pyproj/__init__", "rasterio/__init__"):
        source = next(prefix.glob(f"lib/python3*/site-packages/{module}.py"))
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")), module


def test_the_log_begins_with_what_repeats_the_build(conda_site: Site) -> None:
    """The first line of a log, pasted into a shell, does the build again."""
    conda_site.add("again", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    generation = conda_site.build("venv-again")
    line = observe(conda_site, "venv-again").store.beside("venv-again", generation.fingerprint, "log").read_text()
    command = line.splitlines()[0].removeprefix("$ ")
    generation.marker.unlink()
    assert observe(conda_site, "venv-again").state is State.MISSING
    subprocess.run(command, shell=True, check=True, cwd="/")
    assert observe(conda_site, "venv-again").state is State.READY


def test_many_who_ask_get_one_build(conda_site: Site) -> None:
    """Six waiters in as many threads, and a build command besides: one prefix, built once, the same for all."""
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: conda_site.build("venv-one"), range(6)))
    assert len({generation.path for generation in found}) == 1
    assert [g.number for g in conda_site.store.generations("venv-one")] == [1]


def test_a_builder_that_was_not_first_ends_and_is_not_missed(conda_site: Site) -> None:
    """Of many builders that start at the same moment all but one end at once, so that forty who wait are not forty
    idle processes; who started one of them still gets the prefix, and knows that the build isn't theirs meanwhile."""
    conda_site.add("late", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    build = request_build(conda_site.stores, "venv-late", conda_site.settings())
    assert isinstance(build, Build)
    build._start()
    lock = conda_site.store.beside(build.kernel.name, build.kernel.fingerprint, "lock")
    with locks.exclusive(lock, timeout=0, waiting_for="the first of them"):
        while build.ours:
            assert build.step() is None
            time.sleep(0.02)
        assert build.step() is None
    assert build.wait().number == 1
    assert build.ours


def test_a_killed_build_is_taken_over(conda_site: Site) -> None:
    """Whoever waits for a build that is killed with SIGKILL starts it again, and its remains are gone."""
    conda_site.add("killed", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    build = request_build(conda_site.stores, "venv-killed", conda_site.settings())
    assert isinstance(build, Build)
    killed: list[int] = []
    while (generation := build.step()) is None:
        progress = build.progress
        if progress and progress.phase is Phase.VERIFY and not killed:
            killed.append(progress.pid)
            os.kill(progress.pid, signal.SIGKILL)
        time.sleep(0.02)
    assert killed and generation.marker.is_file()
    assert [g.number for g in conda_site.store.generations("venv-killed")] == [1]


def test_a_dead_build_is_seen_and_its_leftovers_never_run(conda_site: Site) -> None:
    """A prefix without a marker and a progress file without an end are a failure, and a new build removes them."""
    conda_site.add("dead", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    kernel = conda_site.stores.find("venv-dead")[1]
    left = conda_site.store.next_generation(kernel.name, kernel.fingerprint)
    (left.path / "bin").mkdir(parents=True)
    (left.path / "bin" / "python").write_text("half a prefix")
    progress = conda_site.store.beside(kernel.name, kernel.fingerprint, "progress.json")
    progress.write_text(json.dumps({"name": kernel.name, "fingerprint": kernel.fingerprint, "phase": "Installing"}))
    seen = observe(conda_site, "venv-dead")
    assert seen.state is State.FAILED and seen.failure.code == "build-killed" and seen.ready is None
    generation = conda_site.build("venv-dead", remember_failures=True)
    assert (generation.path / "bin" / "python").resolve().stat().st_size > 1000


def test_force_makes_a_new_generation(conda_site: Site) -> None:
    """A forced rebuild takes the next number, leaves the old prefix alone, and moves `current`."""
    conda_site.add("twice", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    first = conda_site.build("venv-twice")
    second = conda_site.build("venv-twice", force=True)
    assert (first.number, second.number) == (1, 2)
    assert first.marker.is_file()
    assert (second.path.parent / "current").resolve() == second.path
    assert conda_site.build("venv-twice") == second
    assert second.record().seconds > 0
    last = read_progress(conda_site.store.beside("venv-twice", second.fingerprint, "progress.json"))
    assert last is not None and last.previous == first.record().seconds


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("broken-dep", SolveError, "no-such-library"),
        ("bad-kernel", ProbeError, ""),
    ],
)
def test_a_failed_build_says_why_and_leaves_no_prefix(
    conda_site: Site, spec: str, error: type[SepalError], words: str
) -> None:
    """The waiter gets the error of its class with the tool's own words; no prefix stays; the state is failed."""
    conda_site.add("fails", {"sepal_environment.yml": f"channels: [conda-forge]\ndependencies: [python, {spec}]\n"})
    conda_site.sync()
    with pytest.raises(error) as caught:
        conda_site.build("venv-fails")
    assert words in caught.value.detail and caught.value.detail
    seen = observe(conda_site, "venv-fails")
    assert seen.state is State.FAILED and type(seen.failure) is error
    assert not conda_site.store.generations("venv-fails")


def test_a_failure_is_remembered_until_it_makes_sense_to_try_again(conda_site: Site) -> None:
    """Within the back-off a launch gets the old reason at once, without a build; after it, by force, or with a changed
    file it is tried again."""
    conda_site.add("fails", {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [broken-dep]\n"})
    conda_site.sync()
    with pytest.raises(SolveError):
        conda_site.build("venv-fails")
    progress = observe(conda_site, "venv-fails").progress
    with pytest.raises(SolveError, match="tried again in"):
        conda_site.build("venv-fails", remember_failures=True)
    assert observe(conda_site, "venv-fails").progress == progress
    conda_site.options["retry_after"] = 0
    with pytest.raises(SolveError) as caught:
        conda_site.build("venv-fails", remember_failures=True)
    assert "tried again" not in str(caught.value)
    assert observe(conda_site, "venv-fails").progress.started > progress.started
    conda_site.options["retry_after"] = 900
    commit(conda_site.repository("fails"), {"sepal_environment.yml": SMALL})
    conda_site.sync()
    assert conda_site.build("venv-fails", remember_failures=True).marker.is_file()


def test_a_file_that_changed_meanwhile_is_not_built(conda_site: Site) -> None:
    """A build whose checkout no longer fits the fingerprint that was asked for stops and says what to do."""
    conda_site.add("moves", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    (conda_site.store.apps / "moves" / "sepal_environment.yml").write_text(SMALL + "name: x\n")
    found = request_build(conda_site.stores, "venv-moves", conda_site.settings())
    assert isinstance(found, Build)
    (conda_site.store.apps / "moves" / "sepal_environment.yml").write_text(SMALL.replace("python,", "python, numpy,"))
    with pytest.raises(ChangedError, match="jupyter sepal sync"):
        found.wait()


def test_a_prefix_that_would_be_too_long_is_refused(conda_site: Site) -> None:
    """Before anything is done, with the length and the setting to change."""
    conda_site.add("deep", {"sepal_environment.yml": SMALL})
    conda_site.options["store"] = str(conda_site.root / ("d" * 120) / ("e" * 120))
    conda_site.sync()
    from sepal_provisioner.store import Stores

    found = request_build(Stores.of(conda_site.options["store"]), "venv-deep", conda_site.settings())
    assert isinstance(found, Build)
    with pytest.raises(PrefixTooLongError, match=r"bytes long.*c\.Sepal\.store"):
        found.wait()


def test_a_store_that_may_not_be_written_says_whom_to_ask(conda_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a writable store a launch names the store and the person to ask, and starts nothing."""
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    monkeypatch.setattr("sepal_provisioner.store.writable", lambda folder: False)
    with pytest.raises(StoreReadOnlyError, match=f"{conda_site.store.root}. Ask {current_user()} to run"):
        conda_site.build("venv-one")
    conda_site.options["contact"] = "the helpdesk (help@example.org)"
    with pytest.raises(StoreReadOnlyError, match=r"Ask the helpdesk \(help@example.org\) to run"):
        conda_site.build("venv-one")


def test_an_unknown_name_is_told_with_its_neighbour(conda_site: Site) -> None:
    """A typing error gets the closest name that there is."""
    conda_site.add("forest", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    with pytest.raises(UnknownKernelError, match="venv-forest"):
        conda_site.build("venv-forset")


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
def test_a_full_disk_is_told_and_leaves_nothing(conda_site: Site, tmp_path: Path) -> None:
    """On a file system of 24 MB a build ends with no-space, its prefix is gone, and the reason was written."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        conda_site.options["store"] = str(small / "store")
        conda_site.add("big", {"sepal_environment.yml": SMALL})
        conda_site.sync()
        from sepal_provisioner.store import Stores

        stores = Stores.of(conda_site.options["store"])
        found = request_build(stores, "venv-big", conda_site.settings())
        assert isinstance(found, Build)
        with pytest.raises(NoSpaceError, match="space"):
            found.wait()
        assert not stores.own.generations("venv-big")
        assert stores.observe(stores.find("venv-big")[1]).failure.code == "no-space"  # type: ignore[union-attr]
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_activation_scripts_are_recorded_as_data(conda_site: Site) -> None:
    """What scripts of `activate.d` set is taken as it stands: literal `$(…)` is kept, nothing of it is run."""
    conda_site.add(
        "act", {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python, bad-activation]\n"}
    )
    conda_site.sync()
    record = conda_site.build("venv-act").record()
    values = list(record.activation.values())
    assert any("$(" in value or "`" in value for value in values), values
    assert not list(conda_site.root.rglob("SHOULD-NOT-EXIST"))


def test_an_engine_that_is_not_there_is_told(conda_site: Site) -> None:
    """With micromamba asked for and none there, the build fails with the way to get an engine."""
    conda_site.options |= {"engine": "micromamba", "micromamba": "/no/such/micromamba"}
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    if engines.ENGINES["micromamba"].version(conda_site.settings()):
        pytest.skip("micromamba is on PATH here")
    with pytest.raises(BuildError, match="micromamba is not found") as caught:
        conda_site.build("venv-one")
    assert caught.value.code == "no-engine"


def test_a_build_is_cancelled_and_leaves_nothing(conda_site: Site, channel: Path) -> None:
    """Cancelling ends the build's process, removes what it made, tells whoever waits, and is no failure to remember."""
    with slow_channel(channel, 300_000) as (slow, line):
        conda_site.mirrors = slow
        conda_site.add("long", {"sepal_environment.yml": SMALL})
        conda_site.sync()
        kernel = conda_site.stores.find("venv-long")[1]
        assert cancel_build(conda_site.store, kernel) is False
        build = request_build(conda_site.stores, "venv-long", conda_site.settings())
        assert isinstance(build, Build)
        while build.progress is None or build.progress.phase is not Phase.DOWNLOAD:
            assert build.step() is None
            time.sleep(0.05)
        assert cancel_build(conda_site.store, kernel) is True
        assert not conda_site.store.generations("venv-long")
        with pytest.raises(CancelledBuildError):
            build.wait()
        line.open()
        assert conda_site.build("venv-long", remember_failures=True).marker.is_file()


def test_a_build_gets_so_much_time_and_no_more(conda_site: Site, channel: Path) -> None:
    """After `build_timeout` it fails with the setting's name, and leaves no prefix."""
    with slow_channel(channel, 20_000) as (slow, _):
        conda_site.mirrors = slow
        conda_site.options["build_timeout"] = 3
        conda_site.add("long", {"sepal_environment.yml": SMALL})
        conda_site.sync()
        with pytest.raises(BuildError, match=r"longer than c\.Sepal\.build_timeout"):
            conda_site.build("venv-long")
    assert not conda_site.store.generations("venv-long")


HANGS = """
import ctypes, sys
from sepal_provisioner import builder
builder.OVERTIME = 1
builder.build = lambda request: ctypes.PyDLL(None).sleep(1000)  # with the interpreter's lock: nothing else runs
sys.exit(builder.main(sys.argv[1:]))
"""


def test_a_build_that_hangs_out_of_reach_ends_as_well(conda_site: Site) -> None:
    """An engine that hangs in its own code, where neither signals nor exceptions come through, holds the environment's
    lock no longer than that; the stacks of its threads are in the log."""
    conda_site.options["build_timeout"] = 1
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    found = request_build(conda_site.stores, "venv-one", conda_site.settings())
    assert isinstance(found, Build)
    done = subprocess.run(
        [sys.executable, "-c", HANGS, found.request], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr and "in main" in done.stderr


def test_another_machines_build_is_not_cancelled_here(conda_site: Site) -> None:
    """A build that runs elsewhere is left alone, and its user, host and process are named."""
    conda_site.add("far", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    kernel = conda_site.stores.find("venv-far")[1]
    progress = {
        "name": kernel.name,
        "fingerprint": kernel.fingerprint,
        "phase": "Solving",
        "user": "ann",
        "host": "far",
    }
    lock = conda_site.store.beside(kernel.name, kernel.fingerprint, "lock")
    with locks.exclusive(lock, timeout=0, waiting_for=""):
        conda_site.store.beside(kernel.name, kernel.fingerprint, "progress.json").write_text(json.dumps(progress))
        with pytest.raises(BuildError, match="ann on far"):
            cancel_build(conda_site.store, kernel)


def test_a_request_is_private_and_read_back(conda_site: Site) -> None:
    """The request file may hold passwords of mirrors: mode 0600; one that is damaged is a clear error."""
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    found = request_build(conda_site.stores, "venv-one", conda_site.settings())
    assert isinstance(found, Build)
    assert found.request.stat().st_mode & 0o077 == 0
    request = Request.read(found.request)
    assert request.kernel == conda_site.stores.find("venv-one")[1]
    assert request.settings.channel_mirrors == conda_site.mirrors
    found.request.write_text("{}")
    with pytest.raises(SepalError, match="can't be read"):
        Request.read(found.request)


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv (util-linux) is not installed")
def test_the_commands_of_a_killed_build_end_with_it(conda_site: Site, tmp_path: Path) -> None:
    """When a build is killed its running command is killed too, and only then is the lock free: somebody may take over
    within a moment, and nobody writes the same prefix beside an orphan."""
    conda_site.add("slow", {"sepal_environment.yml": SMALL.rstrip() + "\n"})
    conda_site.sync()
    pid_file, program = tmp_path / "pid", tmp_path / "micromamba"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo 2.8.1 && exit\necho $$ > {pid_file}.new\n'
        f"mv {pid_file}.new {pid_file}\n"
        "exec sleep 300\n"
    )
    program.chmod(0o755)
    conda_site.options |= {"engine": "micromamba", "micromamba": str(program)}
    build = request_build(conda_site.stores, "venv-slow", conda_site.settings())
    assert isinstance(build, Build)
    while not pid_file.exists():
        assert build.step() is None
        time.sleep(0.05)
    command = int(pid_file.read_text())
    os.kill(build.progress.pid, signal.SIGKILL)  # type: ignore[union-attr]
    build._child.wait()  # type: ignore[union-attr]
    lock = conda_site.store.beside(build.kernel.name, build.kernel.fingerprint, "lock")
    with locks.exclusive(lock, timeout=30, waiting_for="the command's end"):
        assert not Path(f"/proc/{command}/fd").exists() or not os.listdir(f"/proc/{command}/fd")
