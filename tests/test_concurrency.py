"""Many processes on one store, in random order, some of them killed: what must hold, holds at every step.

`SEPAL_TEST_SEEDS` and `SEPAL_TEST_STEPS` raise how many sequences of operations are tried, and how long each is. What
was done is counted in the file that `SEPAL_TEST_COUNTS` names.
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
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Site, commit, mirrors
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sepal_provisioner import audit, locks, sync
from sepal_provisioner.builds import Build, request_build
from sepal_provisioner.errors import BusyError, SepalError
from sepal_provisioner.generation import Generation
from sepal_provisioner.launch import prepare, ready_generation
from sepal_provisioner.request import command
from sepal_provisioner.store import State

SEEDS, STEPS = int(os.environ.get("SEPAL_TEST_SEEDS", "2")), int(os.environ.get("SEPAL_TEST_STEPS", "16"))
NAMES = ("venv-forest", "venv-water")
PATIENCE = 300
FILE = "channels: [conda-forge]\ndependencies: [python]\nvariables: {{VERSION: '{}'}}\n"
OPERATIONS = (
    *("build", "build", "build", "launch", "launch", "launch", "kill", "kill", "pass_time", "pass_time", "pass_time"),
    *("sync", "sync", "prune", "roll_back", "change", "change_catalog", "end_kernel"),
)
PRUNE = """
import json, sys
from sepal_provisioner.prune import apply, plan
from sepal_provisioner.settings import Sepal
from sepal_provisioner.store import Stores
settings = Sepal(**json.loads(sys.argv[1]))
store = Stores.of(settings.store).own
for item in apply(store, plan(store, settings)):
    pass
"""
PACKAGES: dict[str, Path] = {}  # a filled package cache, so that each build takes seconds
DONE: Counter[str] = Counter()


class ManyProcesses(RuleBasedStateMachine):
    """One store, and everybody who works on it."""

    @initialize(seed=st.integers(0, 2**32))
    def make(self, seed: int) -> None:
        """A synced site with two kernels, one of them built, and a warm package cache."""
        self.chance = random.Random(seed)
        self.root = Path(tempfile.mkdtemp(prefix="sepal-many-"))
        self.site = Site(self.root, mirrors(PACKAGES["channel"]), {"keep_generations": 0, "min_free_space": 0})
        for name in NAMES:
            self.site.add(name.removeprefix("venv-"), {"sepal_environment.yml": FILE.format(0)})
        self.entries = list(self.site.apps)
        shutil.copytree(PACKAGES["cache"], self.site.store.packages, copy_function=_link)
        self.site.sync()
        self.site.build(NAMES[0])
        self.processes: list[subprocess.Popen[bytes]] = []
        self.held: list[tuple[Generation, int]] = []
        self.version = 0
        DONE["sequences"] += 1

    # ------------------------------------------------------------------------------------------ what people do

    def _start(self, arguments: Sequence[str], what: str) -> None:
        DONE[what] += 1
        quiet = subprocess.DEVNULL
        self.processes.append(subprocess.Popen(arguments, stdout=quiet, stderr=quiet, start_new_session=True))

    @rule(what=st.sampled_from(OPERATIONS), name=st.sampled_from(NAMES), flag=st.booleans())
    def do(self, what: str, name: str, flag: bool) -> None:
        """Somebody does something: one rule for all, for hypothesis leaves some rules out of each sequence."""
        getattr(self, f"_{what}")(name, flag)

    def _build(self, name: str, force: bool) -> None:
        """Somebody builds, perhaps although it is built."""
        with contextlib.suppress(SepalError):
            asked = request_build(self.site.stores, name, self.site.settings(), force=force)
            if isinstance(asked, Build):
                self._start(command(asked.request), "forced builds" if force else "builds")

    def _sync(self, name: str, flag: bool) -> None:
        """A server syncs in the background."""
        self._start(sync.command(self.site.settings()), "syncs")

    def _prune(self, name: str, flag: bool) -> None:
        """An administrator prunes."""
        self._start([sys.executable, "-c", PRUNE, json.dumps(self.site.values())], "prunes")

    def _launch(self, name: str, flag: bool) -> None:
        """A kernel starts; it holds its prefix until it ends."""
        with contextlib.suppress(SepalError):
            ready = ready_generation(self.site.stores, name)
            if ready is not None:
                launched = prepare(ready, name, os.environ, self.site.settings())
                self.held.append((ready, launched.lock))
                DONE["launches"] += 1
                done = subprocess.run(
                    [launched.python, "-c", "import ipykernel"], check=False, capture_output=True, timeout=PATIENCE
                )
                assert done.returncode == 0, (ready.path, done.stderr)

    def _end_kernel(self, name: str, flag: bool) -> None:
        """The kernel that runs longest ends."""
        if self.held:
            os.close(self.held.pop(0)[1])

    def _roll_back(self, name: str, flag: bool) -> None:
        """Somebody rolls back to whatever is there."""
        store = self.site.store
        with contextlib.suppress(SepalError):
            _, kernel = self.site.stores.find(name)
            if complete := store.complete(name):
                store.roll_back(name, kernel.fingerprint, self.chance.choice([*complete, None]))
                DONE["rollbacks"] += 1

    def _change(self, name: str, flag: bool) -> None:
        """An author changes an environment file."""
        self.version += 1
        repository = self.site.repository(name.removeprefix("venv-"))
        commit(repository, {"sepal_environment.yml": FILE.format(self.version % 3)})
        DONE["changes"] += 1

    def _change_catalog(self, name: str, flag: bool) -> None:
        """The catalog loses an entry, or gets it back."""
        self.site.apps = self.entries[:1] if len(self.site.apps) == 2 else list(self.entries)
        self.site.write()

    def _pass_time(self, name: str, flag: bool) -> None:
        """Time passes."""
        time.sleep(self.chance.uniform(0, 3))

    def _kill(self, name: str, group: bool) -> None:
        """One of the processes is killed, alone or with its children."""
        running = [process for process in self.processes if process.poll() is None]
        if running:
            process = self.chance.choice(running)
            DONE["kills"] += 1
            with contextlib.suppress(ProcessLookupError):
                if group:
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()

    # -------------------------------------------------------------------------------------- what always holds

    @invariant()
    def check(self) -> None:
        """Everything that must be true while others work."""
        if not hasattr(self, "held"):
            return
        index = self.site.store.index()
        assert {kernel.name for kernel in index.kernels} <= set(NAMES) and index.kernels, "the index is whole"
        for generation, _ in self.held:
            assert generation.marker.exists(), f"{generation.path} was removed under a running kernel"
            assert Path(generation.python).exists() and locks.shared(generation.marker)
        for name in NAMES:
            for generation in self.site.store.complete(name):
                with contextlib.suppress(FileNotFoundError):
                    self._prove_whole(generation)

    def _prove_whole(self, generation: Generation) -> None:
        """A prefix with a marker has every package that its record names; pruning takes the marker away first."""
        try:
            record = generation.record()
            conda = [package for package in record.packages if package["source"] == "conda"]
            there = {path.name for path in (generation.path / "conda-meta").glob("*.json")}
            whole = len(there) == len(conda) and os.path.exists(generation.python)
        except (OSError, ValueError):
            assert not generation.marker.exists(), f"{generation.path}: a marker that can't be read"
            return
        assert whole or not generation.marker.exists(), f"{generation.path} is ready, but not whole"

    def teardown(self) -> None:
        """When all have ended: no lock is left, every kernel can be built, and a prune leaves nothing half done."""
        if not hasattr(self, "held"):
            return
        try:
            deadline = time.monotonic() + PATIENCE
            for process in self.processes:
                process.wait(max(1, deadline - time.monotonic()))
            self.check()
            for _, lock in self.held:
                os.close(lock)
            self.site.apps = list(self.entries)
            self.site.write()
            _eventually(self.site.sync)
            for name in NAMES:
                generation = self.site.build(name)
                subprocess.run([generation.python, "-c", "import ipykernel"], check=True, timeout=PATIENCE)
                assert self.site.stores.observe(self.site.stores.find(name)[1]).state is State.READY
            arguments = [sys.executable, "-c", PRUNE, json.dumps(self.site.values())]
            subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)
            for name in NAMES:
                (left,) = self.site.store.generations(name)
                assert (left.path.parent / "current").resolve() == left.path and left.marker.exists()
        finally:
            for process in self.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            shutil.rmtree(self.root, ignore_errors=True)
            DONE["operations"] = sum(count for what, count in DONE.items() if what not in ("sequences", "operations"))
            if path := os.environ.get("SEPAL_TEST_COUNTS"):
                Path(path).write_text(json.dumps(DONE, indent=1))


def _link(source: str, target: str) -> None:
    """Link what a package cache holds; but a lock is its own cache's."""
    (shutil.copy2 if source.endswith(".lock") else os.link)(source, target)


def _eventually(function):  # type: ignore[no-untyped-def]
    """What a git that outlived its killed sync still holds up for a moment."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return function()
        except BusyError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.timeout(max(600, SEEDS * 600))
def test_many_processes_on_one_store(tmp_path_factory: pytest.TempPathFactory, channel: Path) -> None:
    """In every sequence of syncs, builds, launches, prunes, rollbacks, changes and kills no prefix is ready that is not
    whole, none that a kernel runs from goes away, the index is never lost, and in the end everything can be built."""
    warm = Site(tmp_path_factory.mktemp("warm"), mirrors(channel))
    warm.add("forest", {"sepal_environment.yml": FILE.format(0)})
    warm.sync()
    warm.build("venv-forest")
    PACKAGES.update(channel=channel, cache=warm.store.packages)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        ManyProcesses,
        settings=settings(
            max_examples=SEEDS + 1,  # the first one is the simplest: the same operation again and again
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # the same steps end differently each time: there is nothing to shrink
            suppress_health_check=list(HealthCheck),
        ),
        _min_steps=STEPS,
    )


def test_two_environments_build_at_the_same_time(conda_site: Site) -> None:
    """Two environments of one kernel's store hold their locks together; the same one is never built by two."""
    for name in NAMES:
        conda_site.add(name.removeprefix("venv-"), {"sepal_environment.yml": FILE.format(name)})
    conda_site.sync()
    asked = [request_build(conda_site.stores, name, conda_site.settings()) for name in NAMES]
    builds = [build for build in asked if isinstance(build, Build)]
    processes = [subprocess.Popen(command(build.request)) for build in builds for _ in range(2)]
    together = 0
    while any(process.poll() is None for process in processes):
        together = max(together, sum(locks.held(build.log.with_suffix(".lock")) for build in builds))
        time.sleep(0.005)
    codes = [process.wait() for process in processes]
    assert together == 2 and sorted(codes[:2])[0] == sorted(codes[2:])[0] == 0
    assert set(codes) <= {0, BusyError.exit_code}, "who is not first ends"
    built = [line for line in audit.lines(conda_site.store.root) if line["action"] == "build"]
    assert sorted(line["kernel"] for line in built) == sorted(NAMES)
    assert [len(conda_site.store.generations(name)) for name in NAMES] == [1, 1]
