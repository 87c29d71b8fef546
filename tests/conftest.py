"""What the tests share: a place of their own for everything, real git repositories, and a real conda channel."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sepal_provisioner.builds import LOOK_EVERY, Build, request_build
from sepal_provisioner.generation import Generation
from sepal_provisioner.settings import Sepal
from sepal_provisioner.store import BYTECODE, Store, Stores
from sepal_provisioner.sync import Report, sync

sys.path.insert(0, str(Path(__file__).parent))
from channel import ensure_channel
from waits import until

# A shell that starts the tests in the background hands down that interrupts are ignored, and some are about interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where this is set, each of the thousands of processes that the tests start would compile our modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

SMALL = "channels: [conda-forge]\ndependencies: [python, sepal-demo]\n"
"""An environment file for what needs a real environment but nothing in it: about 25 MB to download."""

SHARED = Path(__file__).resolve().parents[2] / "shared" / "real"
"""Real catalog and environment files, where they lie beside the project; tests that need them say so and skip."""

BUILD_SECONDS = 400
"""How long a build of the tests' small channel may take, on however busy a machine."""

GIT = ("git", "-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")


class FailuresAtOnce:
    """Tells each failure when it happens, too, and not only at the end: a run that somebody stops has said it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each phase of a test, in the process that prints."""
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            reporter.write_line("")
            reporter.write_line(f"{time.strftime('%H:%M:%S')} {report.nodeid} ({report.when}) failed")
            reporter.write_line(report.longreprtext[-5000:])


def pytest_configure(config: pytest.Config) -> None:
    """Called by pytest once, in each of its processes."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(config))


@pytest.fixture(autouse=True)
def _own_place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test touches the user's own kernels, configuration or store: the home folder is an empty one."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("JUPYTER", "SEPAL", "XDG_", "GIT_")) and not name.startswith("SEPAL_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(home / "data"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(home / "config"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(home / "ipython"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    yield


@pytest.fixture(scope="session")
def channel() -> Path:
    """A folder with the real conda channels `conda-forge` and `defaults`, made once from what PyPI gives."""
    return ensure_channel()


def git(folder: Path, *arguments: str) -> str:
    """Run git in a repository of the test's own."""
    done = subprocess.run([*GIT, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path, files: Mapping[str, str | bytes | None], message: str = "Change") -> str:
    """Write (or, for None, remove) files in a repository, made when it is not there, and commit; returns the commit."""
    if not (folder / ".git").exists():
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet", "--initial-branch=main")
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD")


@dataclass
class Site:
    """A small site: a catalog, its repositories, a store, and the settings that name them."""

    root: Path
    mirrors: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    apps: list[dict[str, Any]] = field(default_factory=list)
    compiled: bool = True  # whether its builds share with all others here what they compile, half of their work

    @property
    def catalog(self) -> Path:
        """The catalog's file."""
        return self.root / "apps.json"

    @property
    def store(self) -> Store:
        """The writable store."""
        return Store(self.root / "store")

    @property
    def stores(self) -> Stores:
        """The stores as a server sees them."""
        return Stores.of(str(self.store.root), self.options.get("search_stores", ()))

    def repository(self, name: str) -> Path:
        """Where an application's own repository is."""
        return self.root / "repositories" / name

    def add(self, name: str, files: Mapping[str, str | bytes], **entry: Any) -> str:
        """Make a repository and its catalog entry; returns the commit."""
        made = commit(self.repository(name), files)
        url = f"file://{self.repository(name)}"
        self.apps.append({"id": name, "label": f"App {name}", "endpoint": "jupyter", "repository": url, **entry})
        self.write()
        return made

    def write(self) -> None:
        """Write the catalog."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.catalog.write_text(json.dumps({"apps": self.apps, "tags": []}), encoding="utf-8")

    def values(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {
            "catalogs": [str(self.catalog)],
            "store": str(self.store.root),
            "repository_schemes": ["https", "ssh", "file"],
            "channel_mirrors": self.mirrors,
            "git_timeout": 60,
            "build_niceness": 0,  # a test waits for its builds, however busy the machine is
            **self.options,
        }

    def settings(self) -> Sepal:
        """The settings."""
        return Sepal(**self.values())

    def sync(self) -> Report:
        """One sync."""
        done = sync(self.settings())
        packages = Store(Path(self.values()["store"])).packages
        if self.compiled and self.mirrors and not packages.exists():
            packages.mkdir()
            (packages / BYTECODE).symlink_to(compiled_modules())
        return done

    def build(self, name: str, **options: Any) -> Generation:
        """Build a kernel's environment in a process of its own and wait for it."""
        found = request_build(self.stores, name, self.settings(), **options)
        return ended(found) if isinstance(found, Build) else found

    def config(self, **more: Any) -> Path:
        """A jupyter_server_config.py with these settings; `more` are lines of other classes, as dotted names."""
        lines = ["c = get_config()"]
        lines += ['c.ServerApp.kernel_spec_manager_class = "sepal_provisioner.SepalKernelSpecManager"']
        lines += [f"c.Sepal.{name} = {value!r}" for name, value in self.values().items()]
        lines += [f"c.{name} = {value!r}" for name, value in more.items()]
        path = self.root / "jupyter_server_config.py"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path


@functools.cache
def compiled_modules() -> Path:
    """A folder for compiled modules, for as long as this process runs."""
    folder = tempfile.mkdtemp(prefix="sepal-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def ended(build: Build) -> Generation:
    """What a build gives, or raises; one that doesn't end within BUILD_SECONDS is told with what its log says, and
    with who holds which lock."""
    try:
        generation: Generation = until(build.step, "the build's end", BUILD_SECONDS, every=LOOK_EVERY)
    except TimeoutError:
        log = build.log.read_text(errors="replace") if build.log.exists() else ""
        held = Path("/proc/locks").read_text()
        raise AssertionError(f"{build.progress}\n{log[-4000:]}\n{held}\n{running()}") from None
    return generation


def running() -> str:
    """Every process, a line each: its number, its parent's, its state, what it waits for, its command."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (process / "stat").read_text().rpartition(") ")[2].split()[:2]
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            lines.append(f"{process.name} {parent} {state} {(process / 'wchan').read_text()} {command[:200]}")
    return "\n".join(lines)


def mirrors(channel: Path) -> dict[str, str]:
    """`c.Sepal.channel_mirrors` for the test channel."""
    return {name: f"file://{channel / name}" for name in ("conda-forge", "defaults")}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty site that builds nothing."""
    made = Site(tmp_path / "site")
    made.write()
    return made


@pytest.fixture
def conda_site(tmp_path: Path, channel: Path) -> Site:
    """An empty site whose conda channels are the test's own."""
    made = Site(tmp_path / "site", mirrors(channel))
    made.write()
    return made


GEO_FILE = """\
name: geo
channels:
  - conda-forge
  - defaults
dependencies:
  - python
  - pyproj  # Always include to avoid PROJ conflicts
  - gdal
  - rasterio
  - numpy
variables:
  GREETING: "$(touch /tmp/never) stays as it is"
"""
WHEELS_FILE = "# wheels that bring their own data\nnumpy\npyproj\nrasterio\n"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, channel: Path) -> Site:
    """A site with two kernels that are built: `venv-geo` (conda, with data) and `venv-wheels` (requirements.txt).

    Tests read it and launch from it; they never change it.
    """
    site = Site(tmp_path_factory.mktemp("built"), mirrors(channel))
    site.add("geo", {"sepal_environment.yml": GEO_FILE, "notebook.ipynb": "{}"})
    site.add("Wheels", {"requirements.txt": WHEELS_FILE})
    site.sync()
    for name in ("venv-geo", "venv-wheels"):
        site.build(name)
    return site
