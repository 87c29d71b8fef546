"""Temporary folders: private, and removed even where whoever made them could not do it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import SMALL, Site, ended
from slow import slow_channel
from stage import PATIENCE
from waits import until

from sepal_provisioner import locks
from sepal_provisioner.builds import Build, request_build
from sepal_provisioner.progress import Phase
from sepal_provisioner.temporary import TemporaryFolder

HOLDS = """
import sys, time
from sepal_provisioner.temporary import TemporaryFolder
folder = TemporaryFolder("kernel")
(folder.path / "file").write_text("left")
print(folder.path, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this process and its children: an empty one."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def long(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder again, its path too long for a socket."""
    folder = temporary / ("x" * 100)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_a_folder_is_private_and_goes_with_its_block(temporary: Path) -> None:
    """Only its user can enter it; whatever is in it goes, links' targets stay."""
    outside = temporary / "outside"
    outside.mkdir()
    with TemporaryFolder("build") as folder:
        assert folder.parent == temporary and folder.stat().st_mode & 0o777 == 0o700
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "link").symlink_to(outside)
    assert list(temporary.iterdir()) == [outside]


def test_what_the_killed_left_is_removed_and_what_the_living_use_is_not(temporary: Path) -> None:
    """The folder of a killed process is removed when somebody makes the next one, that of a living one stays; so does
    whatever is no folder of ours."""
    others = temporary / "sepal-notes-of-mine"
    others.mkdir()
    (temporary / "sepal-link-x").symlink_to(others)
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        with TemporaryFolder("build") as ours:
            assert (theirs / "file").read_text() == "left"
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
            with TemporaryFolder("probe"):
                assert not theirs.exists() and ours.exists()
    assert {path.name for path in temporary.iterdir()} == {"sepal-notes-of-mine", "sepal-link-x"}


def test_without_locks_nothing_of_anybody_is_removed(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no locks nobody can tell whether a folder is in use: it stays, and none fails."""

    def refuse(path: Path, timeout: float = 0) -> int:
        raise OSError(37, os.strerror(37), str(path))

    monkeypatch.setattr(locks, "share", refuse)
    with TemporaryFolder("build") as one, TemporaryFolder("build") as two:
        assert one.exists() and two.exists()
    assert not list(temporary.iterdir())


def test_sockets_fit_however_long_the_temporary_folder_is(long: Path) -> None:
    """A socket can be bound in a folder for sockets below a path that is too long for one; others stay below it."""
    with TemporaryFolder("kernel", sockets=True) as folder, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "s-1"))
    with TemporaryFolder("build") as folder:
        assert folder.parent == long


def test_a_build_leaves_nothing_in_the_temporary_folder(conda_site: Site, long: Path) -> None:
    """Its probe's kernel and its installers (uv leaves a lock for each environment) leave nothing behind, below a path
    that is too long for sockets."""
    with_pip = "channels: [conda-forge]\ndependencies: [python=3.11, pip, {pip: [six]}]\n"
    conda_site.add("one", {"sepal_environment.yml": with_pip})
    conda_site.sync()
    assert conda_site.build("venv-one").marker.is_file()
    assert not list(long.iterdir())


def test_what_a_killed_build_left_there_goes_with_the_next_one(
    conda_site: Site, temporary: Path, channel: Path
) -> None:
    """A build that is killed while it downloads leaves a folder; the next one of the same user removes it."""
    with slow_channel(channel, 300_000) as (slow, line):
        conda_site.mirrors = slow
        conda_site.add("killed", {"sepal_environment.yml": SMALL})
        conda_site.sync()
        build = request_build(conda_site.stores, "venv-killed", conda_site.settings())
        assert isinstance(build, Build)
        until(lambda: not build.step() and build.progress and build.progress.phase is Phase.DOWNLOAD, "the download")
        assert build.progress is not None
        os.kill(build.progress.pid, signal.SIGKILL)
        assert [path.name[:12] for path in temporary.iterdir()] == ["sepal-build-"]
        line.open()
        ended(build)
    assert not list(temporary.iterdir())
