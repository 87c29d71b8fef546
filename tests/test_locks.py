"""Locks between real processes: who holds them, who sees that, and when they are free again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from sepal_provisioner import locks
from sepal_provisioner.errors import BusyError, StoreError
from sepal_provisioner.locks import alone, exclusive, held, share, wait_until_free
from sepal_provisioner.users import current_user

WAITING = "Somebody else builds venv-gwb"

HOLD = """
import sys
from pathlib import Path
from sepal_provisioner.locks import exclusive, share
path = Path(sys.argv[1])
if sys.argv[2] == "share":
    kept = share(path)
    print("held", flush=True)
    sys.stdin.read()
else:
    with exclusive(path, timeout=0, waiting_for="nobody"):
        print("held", flush=True)
        sys.stdin.read()
"""
"""Holds a lock until its standard input is closed."""


@contextmanager
def holder(path: Path, kind: str = "exclusive") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock."""
    command = [sys.executable, "-c", HOLD, str(path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def look(path: Path) -> bool:
    """What another process sees when it looks whether the lock is held."""
    script = (
        "import sys; from pathlib import Path; from sepal_provisioner.locks import held; print(held(Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    return done.stdout == "True\n"


def test_a_lock_is_exclusive_between_processes_and_names_who_is_waited_for(tmp_path: Path) -> None:
    """While another process holds the lock we get a BusyError that says what we wait for and where the lock is."""
    path = tmp_path / "deep" / "a.lock"
    with holder(path):
        assert held(path)
        with pytest.raises(BusyError) as raised, exclusive(path, timeout=0, waiting_for=WAITING):
            pass
        assert raised.value.message.startswith(WAITING)
        assert str(path) in raised.value.message
        assert raised.value.code == "busy"
    with exclusive(path, timeout=0, waiting_for=WAITING):
        assert held(path)
    assert not held(path)


def test_a_lock_is_exclusive_within_a_process(tmp_path: Path) -> None:
    """Two threads of one server exclude each other like two processes."""
    path = tmp_path / "a.lock"
    with exclusive(path, timeout=0, waiting_for=WAITING):
        with pytest.raises(BusyError), exclusive(path, timeout=0.2, waiting_for=WAITING):
            pass
        assert held(path), "a failed attempt takes nobody's lock away"
    assert not held(path)


def test_other_processes_see_who_holds_a_lock(tmp_path: Path) -> None:
    """`held` tells from any process whether somebody holds the lock, and takes it from nobody."""
    path = tmp_path / "a.lock"
    assert not look(path), "there is no file yet"
    with exclusive(path, timeout=0, waiting_for=WAITING):
        assert look(path)
        assert look(path)
    assert not look(path)


def test_looking_needs_no_right_to_write(tmp_path: Path) -> None:
    """`held` opens the file for reading only and creates none."""
    path = tmp_path / "a.lock"
    assert not held(path)
    assert not path.exists()
    path.write_text("content")
    path.chmod(0o444)
    assert not held(path)
    with exclusive(path, timeout=0, waiting_for=WAITING):
        assert held(path)


def test_who_waits_learns_who_holds_it(tmp_path: Path) -> None:
    """The message names the holder's user, host and process, and since when, as that process wrote it."""
    path = tmp_path / "a.lock"
    with exclusive(path, timeout=0, waiting_for=WAITING):
        with pytest.raises(BusyError) as caught, exclusive(path, timeout=0, waiting_for=WAITING):
            pass
        for words in (WAITING, current_user(), socket.gethostname(), f"process {os.getpid()}", "since 20"):
            assert words in caught.value.message
        path.write_text("{not JSON")
        with pytest.raises(BusyError, match="did not sign"), exclusive(path, timeout=0, waiting_for=WAITING):
            pass


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    """The lock of a process that got SIGKILL is free at once, without any cleaning up."""
    path = tmp_path / "a.lock"
    with holder(path) as process:
        assert held(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not held(path)
        with exclusive(path, timeout=0, waiting_for=WAITING):
            pass


def test_whoever_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    """A process that waits for a lock gets it when the holder ends."""
    path = tmp_path / "a.lock"
    with holder(path) as process:
        script = HOLD.replace("timeout=0", "timeout=60").replace(
            "    with", "    print('waiting', flush=True)\n    with"
        )
        command = [sys.executable, "-c", script, str(path), "exclusive"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as waiter:
            assert waiter.stdout is not None
            assert waiter.stdout.readline() == "waiting\n"
            process.kill()
            assert waiter.stdout.readline() == "held\n"
            waiter.kill()


def test_a_wait_for_the_end_takes_nothing(tmp_path: Path) -> None:
    """Whoever waits until a lock is free sleeps while it is held, goes on when its holder is killed, and holds nothing
    afterwards; where there is no lock, that is an error."""
    path = tmp_path / "a.lock"
    with ThreadPoolExecutor(2) as pool, holder(path) as process:
        waiters = [pool.submit(wait_until_free, path) for _ in range(2)]
        assert not any(wait(waiters, timeout=0.3).done)
        process.kill()
        assert [waiter.result(60) for waiter in waiters] == [None, None]
    with exclusive(path, timeout=0, waiting_for=WAITING):
        pass
    with pytest.raises(FileNotFoundError):
        wait_until_free(tmp_path / "none.lock")


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    """Whatever ends the block, the lock is free afterwards and no descriptor is left open."""
    path = tmp_path / "a.lock"
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt), exclusive(path, timeout=0, waiting_for=WAITING):
        raise KeyboardInterrupt
    assert not held(path)
    assert len(os.listdir("/proc/self/fd")) == before


PARENT = """
import subprocess, sys
from pathlib import Path
from sepal_provisioner.locks import exclusive, share
path = Path(sys.argv[1])
def leave(descriptor):
    child = subprocess.Popen(["sh", "-c", "read line"], pass_fds=[descriptor])
    print(child.pid, flush=True)
    sys.stdin.read(1)
    import os; os._exit(0)
if sys.argv[2] == "share":
    leave(share(path))
with exclusive(path, timeout=0, waiting_for="nobody") as descriptor:
    leave(descriptor)
"""


@pytest.mark.parametrize("kind", ["exclusive", "share"])
def test_a_child_that_inherited_the_lock_holds_it_after_its_parents_death(tmp_path: Path, kind: str) -> None:
    """A build's own commands, and a kernel, keep the lock when the process that took it is gone; then it is free."""
    path = tmp_path / "a.lock"
    path.touch()
    command = [sys.executable, "-c", PARENT, str(path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        try:
            with pytest.raises(BusyError), exclusive(path, timeout=0, waiting_for=WAITING):
                pass
        finally:
            signal.pidfd_send_signal(child, signal.SIGKILL)
        with exclusive(path, timeout=60, waiting_for=WAITING):
            os.close(child)


def test_shared_locks_agree_with_each_other_and_not_with_an_exclusive_one(tmp_path: Path) -> None:
    """Any number of kernels share a prefix, nobody can remove it meanwhile, and none starts while it is removed."""
    path = tmp_path / "build.json"
    path.write_text("{}")
    with holder(path, "share"):
        ours = share(path)
        try:
            assert not held(path), "only an exclusive lock counts as held"
            with pytest.raises(BusyError), alone(path, waiting_for=WAITING):
                pass
        finally:
            os.close(ours)
        with pytest.raises(BusyError), alone(path, waiting_for=WAITING):
            pass
    with alone(path, waiting_for=WAITING), pytest.raises(BlockingIOError):
        share(path)
    os.close(share(path))
    assert path.read_text() == "{}", "locking a marker leaves its content alone"


def test_the_shared_lock_of_a_killed_kernel_is_free(tmp_path: Path) -> None:
    """A kernel that got SIGKILL no longer keeps its prefix from being removed."""
    path = tmp_path / "build.json"
    path.touch()
    with holder(path, "share") as process:
        process.kill()
        process.wait()
        with exclusive(path, timeout=0, waiting_for=WAITING):
            pass


def test_sharing_what_is_gone_is_an_error_and_leaves_no_descriptor(tmp_path: Path) -> None:
    """A marker that isn't there can't be shared, and a failed attempt leaves nothing open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        share(tmp_path / "missing")
    path = tmp_path / "build.json"
    path.touch()
    with exclusive(path, timeout=0, waiting_for=WAITING), pytest.raises(BlockingIOError):
        share(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_sharing_what_is_removed_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker that is removed between opening and locking it isn't shared: its prefix is going."""
    path = tmp_path / "build.json"
    path.touch()
    lock = locks.fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        path.unlink()
        lock(descriptor, operation)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(locks.fcntl, "flock", late)
    with pytest.raises(FileNotFoundError):
        share(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_shared_descriptor_is_not_inherited_by_accident(tmp_path: Path) -> None:
    """A process that isn't handed the lock doesn't get it: otherwise it would outlive its kernel."""
    path = tmp_path / "build.json"
    path.touch()
    descriptor = share(path)
    try:
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_a_lock_where_none_can_be_is_a_store_error(tmp_path: Path) -> None:
    """A lock below a file, or on a folder, is an error that a person can act on."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.lock", tmp_path / "folder"):
        with pytest.raises(StoreError, match=r"c\.Sepal\.store"), exclusive(path, timeout=0, waiting_for=WAITING):
            pass
        assert not held(path)


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    """A lock's name that somebody made a link elsewhere is refused instead of followed."""
    (tmp_path / "elsewhere").write_text("content")
    (tmp_path / "a.lock").symlink_to("elsewhere")
    with pytest.raises(StoreError), exclusive(tmp_path / "a.lock", timeout=0, waiting_for=WAITING):
        pass
    assert (tmp_path / "elsewhere").read_text() == "content"
