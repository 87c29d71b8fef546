"""Prune and rollback: what stays and why, what goes, and that nothing in use ever does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Site, commit
from test_commands import document, sepal
from waits import until

from sepal_provisioner import audit, locks, prune
from sepal_provisioner.builds import Build, request_build
from sepal_provisioner.errors import StoreError
from sepal_provisioner.generation import Generation, Record
from sepal_provisioner.launch import prepare, ready_generation
from sepal_provisioner.prune import Item
from sepal_provisioner.store import State

SMALL = "channels: [conda-forge]\ndependencies: [python, sepal-demo={}]\n"
OLD = "00000000000000bb"


@pytest.fixture
def listed(site: Site) -> Site:
    """A synced site with one kernel, `venv-forest`, of which nothing is built."""
    site.add("forest", {"sepal_environment.yml": SMALL.format("1.*")})
    site.sync()
    return site


def publish(site: Site, name: str, fingerprint: str, age: float = 0, size: int = 100_000) -> Generation:
    """A ready prefix without a Python in it: what prune looks at is its marker, its size and its age."""
    generation = site.store.next_generation(name, fingerprint)
    (generation.path / "lib").mkdir(parents=True)
    (generation.path / "lib" / "data").write_bytes(b"x" * size)
    generation.publish(Record(name, fingerprint, "a test"))
    moment = generation.marker.stat().st_mtime - age
    for path in (generation.marker, generation.used):
        os.utime(path, (moment, moment))
    return generation


def planned(site: Site) -> dict[Path, Item]:
    """The plan by path."""
    return {item.path: item for item in prune.plan(site.store, site.settings())}


def wanted(site: Site, name: str = "venv-forest") -> str:
    """The fingerprint that a kernel's environment file asks for."""
    return site.stores.find(name)[1].fingerprint


def test_older_versions_go_beyond_those_to_keep(listed: Site) -> None:
    """Of four versions the current one stays, as many as the setting says stay for a rollback, and the rest goes."""
    current = publish(listed, "venv-forest", wanted(listed))
    older = [publish(listed, "venv-forest", f"{number:016x}", age=number) for number in (1, 2, 3)]
    for keep, remains in ((0, 0), (1, 1), (2, 2), (5, 3)):
        listed.options["keep_generations"] = keep
        plan = planned(listed)
        assert not plan[current.path].remove and plan[current.path].reason == "current"
        assert [plan[generation.path].remove for generation in older] == [n >= remains for n in range(3)]
    listed.options["keep_generations"] = 1
    assert document(listed, "prune", "--dry-run")["freed"] >= 200_000
    assert all(generation.path.exists() for generation in older), "a dry run removes nothing"
    done = document(listed, "prune")
    assert done["freed"] >= 200_000
    assert [generation.path.exists() for generation in older] == [True, False, False]
    assert current.marker.exists()
    noted = [line for line in audit.lines(listed.store.root) if line["action"] == "remove"]
    assert {line["path"] for line in noted} == {str(generation.path) for generation in older[1:]}
    assert all(line["reason"] == "an older version" and line["user"] and line["time"] for line in noted)


def test_what_no_catalog_names_goes_and_what_it_skips_stays(listed: Site) -> None:
    """An entry that is gone loses its environments and checkout, one with `skip` keeps both."""
    listed.add("skipped", {"sepal_environment.yml": SMALL.format("1.*")})
    listed.add("gone", {"sepal_environment.yml": SMALL.format("1.*")})
    listed.sync()
    skipped, gone = (publish(listed, name, wanted(listed, name)) for name in ("venv-skipped", "venv-gone"))
    listed.apps[1]["skip"] = True
    del listed.apps[2]
    listed.write()
    listed.sync()
    plan = planned(listed)
    assert not plan[skipped.path].remove and "skip" in plan[skipped.path].reason
    assert plan[gone.path].remove and plan[gone.path].reason == "no catalog names it"
    assert not plan[listed.store.apps / "gone"].remove, "its environment may have been installed from it"
    sepal(listed, "prune")
    sepal(listed, "prune")
    assert not gone.path.parent.exists() and not (listed.store.apps / "gone").exists()
    assert skipped.marker.exists() and (listed.store.apps / "skipped").exists()


@pytest.mark.parametrize("fault", ["unreachable", "faulty"])
def test_a_fault_in_a_catalog_removes_nothing(listed: Site, fault: str) -> None:
    """While a catalog can't be read, or holds an entry that can't, nothing goes for not being named."""
    kept = publish(listed, "venv-other", OLD)
    if fault == "unreachable":
        listed.catalog.write_text("{")
    else:
        listed.apps.append({"id": "other", "endpoint": "jupyter", "repository": 5})
        listed.write()
    listed.sync()
    item = planned(listed)[kept.path]
    assert not item.remove and ("can't be read" in item.reason or "faulty" in item.reason)


def test_without_an_index_nothing_is_pruned(site: Site) -> None:
    """A store that was never synced, or whose index is damaged, says nothing about what is needed."""
    with pytest.raises(StoreError, match="has no index"):
        prune.plan(site.store, site.settings())
    site.store.root.mkdir(parents=True, exist_ok=True)
    site.store.index_path.write_text("{")
    with pytest.raises(StoreError, match="Nothing is pruned"):
        prune.plan(site.store, site.settings())


def test_leftovers_go_and_running_builds_stay(listed: Site) -> None:
    """A prefix without a marker goes, unless somebody holds the lock of its build."""
    left = listed.store.next_generation("venv-forest", wanted(listed))
    (left.path / "lib").mkdir(parents=True)
    with locks.exclusive(listed.store.beside("venv-forest", left.fingerprint, "lock"), timeout=0, waiting_for=""):
        assert not planned(listed)[left.path].remove
        assert [i for i in prune.apply(listed.store, planned(listed).values()) if i.remove] == []
    sepal(listed, "prune")
    assert not left.path.exists()


def test_a_checkout_with_somebodys_work_stays(listed: Site) -> None:
    """Changes, new files and commits in a checkout that nothing needs keep it; without them it goes."""
    works: dict[str, Callable[[Path], object]] = {
        "changed": lambda path: (path / "sepal_environment.yml").write_text("# mine\n"),
        "file": lambda path: (path / "notes.txt").write_text("mine\n"),
        "committed": lambda path: commit(path, {"mine.txt": "mine\n"}),
        "clean": lambda path: None,
    }
    for name in works:
        listed.add(name, {"sepal_environment.yml": SMALL.format("1.*")})
    listed.sync()
    for name, work in works.items():
        work(listed.store.apps / name)
    del listed.apps[1:]
    listed.write()
    listed.sync()
    plan = planned(listed)
    assert {name: plan[listed.store.apps / name].remove for name in works} == {
        "changed": False, "file": False, "committed": False, "clean": True,
    }  # fmt: skip


def test_sizes_count_hard_links_once(listed: Site) -> None:
    """What a prefix shares with one that stays frees nothing; what only removed ones share is counted once."""
    listed.options["keep_generations"] = 0
    current = publish(listed, "venv-forest", wanted(listed), size=400_000)
    first = publish(listed, "venv-forest", OLD, age=1, size=200_000)
    second = publish(listed, "venv-forest", "00000000000000cc", age=2, size=10)
    os.link(current.path / "lib" / "data", first.path / "lib" / "shared")
    os.link(first.path / "lib" / "data", second.path / "lib" / "shared")
    plan = planned(listed)
    assert plan[current.path].size > 400_000
    assert 200_000 < plan[first.path].size + plan[second.path].size < 300_000


def test_packages_that_no_prefix_shares_go(listed: Site) -> None:
    """An unpacked package with files that a prefix links stays, another one goes, and none while a build runs."""
    cache = listed.store.packages / "rattler" / "pkgs"
    for name in ("used-1.0-0", "unused-1.0-0"):
        (cache / name / "lib").mkdir(parents=True)
        (cache / name / "lib" / "file").write_bytes(b"x" * 1000)
    prefix = publish(listed, "venv-forest", wanted(listed))
    os.link(cache / "used-1.0-0" / "lib" / "file", prefix.path / "lib" / "file")
    listed.store.packages_lock.touch()
    building = locks.share(listed.store.packages_lock)
    assert {planned(listed)[cache / name].remove for name in ("used-1.0-0", "unused-1.0-0")} == {False}
    os.close(building)
    sepal(listed, "prune")
    assert os.listdir(cache) == ["used-1.0-0"]


def test_what_a_kernel_runs_from_is_never_removed(conda_site: Site) -> None:
    """A kernel's process holds its prefix, also when whoever started it is gone, and lets go when it ends."""
    conda_site.add("forest", {"sepal_environment.yml": SMALL.format("1.*")})
    conda_site.options["keep_generations"] = 0
    conda_site.sync()
    old = conda_site.build("venv-forest")
    kernel = _launch_and_leave(conda_site)
    commit(conda_site.repository("forest"), {"sepal_environment.yml": SMALL.format("2.*")})
    conda_site.sync()
    conda_site.build("venv-forest")
    try:
        item = planned(conda_site)[old.path]
        assert not item.remove and item.reason == "a kernel runs from it" and item.last_used > 0
        with pytest.raises(Exception, match="a kernel runs from it"):
            prune.remove_prefix(conda_site.store, old)
        sepal(conda_site, "prune")
        assert old.marker.exists()
    finally:
        os.kill(kernel, 9)
    until(lambda: not locks.shared(old.marker), "the kernel's end", 60)
    sepal(conda_site, "prune")
    assert not old.path.exists()
    assert os.readlink(old.path.parent / "current") == ready_generation(conda_site.stores, "venv-forest").path.name  # type: ignore[union-attr]


def _launch_and_leave(site: Site) -> int:
    """Start a process from the prefix as a server does, and let that server end; returns its number."""
    server = (
        "import json, os, subprocess, sys\n"
        "from sepal_provisioner.launch import prepare, ready_generation\n"
        "from sepal_provisioner.settings import Sepal\nfrom sepal_provisioner.store import Stores\n"
        "settings = Sepal(**json.loads(sys.argv[1]))\n"
        "generation = ready_generation(Stores.of(settings.store), 'venv-forest')\n"
        "launch = prepare(generation, 'venv-forest', os.environ, settings)\n"
        "child = subprocess.Popen([launch.python, '-c', 'import time; time.sleep(600)'], pass_fds=[launch.lock],"
        " stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)\n"
        "print(child.pid)"
    )
    command = [sys.executable, "-c", server, json.dumps(site.values())]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_a_rollback_lasts_until_something_newer_comes(conda_site: Site) -> None:
    """The previous version is what launches get after a rollback; --undo, a forced build and a changed file end it."""
    conda_site.add("forest", {"sepal_environment.yml": SMALL.format("1.*")})
    conda_site.sync()
    first = conda_site.build("venv-forest")
    commit(conda_site.repository("forest"), {"sepal_environment.yml": SMALL.format("2.*")})
    conda_site.sync()
    second = conda_site.build("venv-forest")

    def launched() -> Path | None:
        ready = ready_generation(conda_site.stores, "venv-forest")
        if ready is None:
            return None
        prepare(ready, "venv-forest", os.environ, conda_site.settings()).close()
        return ready.path

    current = second.path.parent / "current"
    assert launched() == second.path
    assert document(conda_site, "rollback", "forest") == {"name": "venv-forest", "prefix": str(first.path)}
    assert launched() == first.path and current.resolve() == first.path
    assert "rolled back" in sepal(conda_site, "status", "venv-forest").stdout
    assert document(conda_site, "list")[0]["state"] == "ready"
    assert not planned(conda_site)[first.path].remove and not planned(conda_site)[second.path].remove
    conda_site.sync()
    assert launched() == first.path, "a sync that finds nothing new changes nothing"

    assert document(conda_site, "rollback", "forest", "--undo")["prefix"] is None
    assert launched() == second.path and current.resolve() == second.path

    sepal(conda_site, "rollback", "forest", f"--to={first.path.name[:6]}")
    third = conda_site.build("venv-forest", force=True)
    assert third.number == 2 and launched() == third.path, "a newer build ends the rollback"

    sepal(conda_site, "rollback", "forest", f"--to={first.path.name}")
    commit(conda_site.repository("forest"), {"sepal_environment.yml": SMALL.format("2.*") + "name: same\n"})
    conda_site.sync()
    assert launched() == first.path, "a change that asks for the same environment is none"
    commit(conda_site.repository("forest"), {"sepal_environment.yml": SMALL.format("2.*") + "variables: {A: b}\n"})
    conda_site.sync()
    assert conda_site.stores.observe(conda_site.stores.find("venv-forest")[1]).state is State.STALE
    assert isinstance(request_build(conda_site.stores, "venv-forest", conda_site.settings()), Build)
    results = [line["action"] for line in audit.lines(conda_site.store.root)]
    assert results.count("rollback") == 4 and results.count("build") == 3


def test_a_rollback_without_a_version_before_is_told(listed: Site) -> None:
    """Nothing to go back to is an answer with an exit code of its own, and changes nothing."""
    publish(listed, "venv-forest", wanted(listed))
    done = document(listed, "rollback", "forest", code=6)
    assert "no version before" in done["error"]["message"]
    assert "no version 'ff'" in document(listed, "rollback", "forest", "--to=ff", code=6)["error"]["message"]
    (listed.store.folder("venv-forest") / "rollback.json").write_text("[1]")
    assert listed.store.observe("venv-forest", wanted(listed)).state is State.READY
