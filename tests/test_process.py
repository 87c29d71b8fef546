"""Running commands: what they say, how they end, and that nothing of them is left."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waits import until

from sepal_provisioner import process
from sepal_provisioner.process import LINE_LIMIT, OUTPUT_LIMIT, TAIL_LINES, Completed, follow, run, spawn, start, stop

PATIENCE = 20  # seconds; how long a test waits for what should happen at once


def ended(pid: int) -> bool:
    """Whether a process ends (or has ended) while we are patient."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], PATIENCE)[0])
    finally:
        os.close(descriptor)


def kill(pid: int) -> None:
    """End a process that a test left running on purpose."""
    os.kill(pid, signal.SIGKILL)


def test_both_streams_and_the_exit_code_arrive(tmp_path: Path) -> None:
    """A command runs where and with what it is told, and its two streams and its code come back apart."""
    done = run(["sh", "-c", 'pwd; echo "$A" >&2; exit 3'], cwd=tmp_path, env={"A": "b", "PATH": os.defpath})
    assert done == Completed(3, f"{tmp_path}\n", "b\n")
    assert not done.killed


def test_no_shell_reads_a_command() -> None:
    """What would be special to a shell is an argument like any other."""
    assert run(["echo", "$(id) `id` ; id", "*"]).stdout == "$(id) `id` ; id *\n"


def test_standard_input_is_closed() -> None:
    """A command that asks for input is at its end at once."""
    assert run(["cat"]).code == 0
    assert follow(["cat"], print).code == 0


def test_a_command_that_cannot_be_started_is_an_oserror(tmp_path: Path) -> None:
    """A missing program or folder is an error of the operating system, with its file name."""
    with pytest.raises(FileNotFoundError):
        run([str(tmp_path / "missing")])
    with pytest.raises(FileNotFoundError):
        run(["true"], cwd=tmp_path / "missing")
    with pytest.raises(PermissionError):
        follow([str(tmp_path)], print)


def test_a_signal_is_a_negative_code_and_only_a_foreign_kill_counts_as_killed() -> None:
    """A command that somebody else ended by SIGKILL, itself or its shell's child, says so; SIGTERM does not."""
    assert run(["sh", "-c", "kill -9 $$"]).killed
    assert run(["sh", "-c", "exit 137"]).killed
    ended_politely = run(["sh", "-c", "kill -15 $$"])
    assert (ended_politely.code, ended_politely.killed) == (-signal.SIGTERM, False)


def test_after_the_time_limit_the_whole_group_is_gone() -> None:
    """`run` ends a command that takes too long with its children, and keeps what it said until then."""
    done = run(["sh", "-c", "sleep 1000 & echo $!; echo trouble >&2; wait"], timeout=5)
    assert done.timed_out
    assert not done.killed
    assert done.stderr == "trouble\n"
    assert ended(int(done.stdout))


def test_after_the_time_limit_the_whole_followed_group_is_gone() -> None:
    """`follow` ends a command that takes too long with its children, and keeps what it said until then."""
    lines: list[str] = []
    done = follow(["sh", "-c", "sleep 1000 & echo $!; wait"], lines.append, timeout=5)
    assert done.timed_out
    assert not done.killed
    assert done.stdout == lines[0]
    assert ended(int(lines[0]))


def test_a_command_within_its_time_limit_is_left_alone() -> None:
    """A time limit that isn't reached changes nothing."""
    assert run(["echo", "a"], timeout=60) == Completed(0, "a\n")
    assert follow(["echo", "a"], print, timeout=60) == Completed(0, "a")


def test_whoever_stops_listening_ends_the_command() -> None:
    """An error in the listener ends the command with its children, and is raised on."""
    heard: list[str] = []

    def listen(line: str) -> None:
        heard.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(["sh", "-c", "sleep 1000 & echo $!; wait"], listen)
    assert ended(int(heard[0]))


LEAVES_ONE_BEHIND = "setsid sleep 1000 & echo $!; echo said; exit 4"


@pytest.mark.timeout(60)
def test_a_daemon_that_keeps_the_pipes_open_keeps_nobody() -> None:
    """A command that leaves a background process with its streams behind has ended, with all that it said."""
    done = run(["sh", "-c", LEAVES_ONE_BEHIND])
    pid, said = done.stdout.split()
    kill(int(pid))
    assert (done.code, said, done.timed_out) == (4, "said", False)


@pytest.mark.timeout(60)
def test_a_daemon_that_keeps_the_pipes_open_keeps_no_follower() -> None:
    """The same for a command that is followed."""
    lines: list[str] = []
    done = follow(["sh", "-c", LEAVES_ONE_BEHIND], lines.append)
    kill(int(lines[0]))
    assert (done.code, lines[1:], done.timed_out) == (4, ["said"], False)


@pytest.mark.timeout(60)
def test_a_daemon_that_never_stops_talking_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A background process that writes for ever into a command's streams does not make the command last for ever."""
    script = ["sh", "-c", "setsid sh -c 'while :; do echo more; done' & echo $!"]
    heard: list[str] = []
    monkeypatch.setattr(process, "LINGER", 0.5)
    assert follow(script, heard.append).code == 0
    done = run(script)
    assert done.code == 0
    pids = {int(line) for line in (*heard, *done.stdout.split()) if line.isdigit()}
    assert len(pids) == 2
    left = [pid for pid in pids if not ended(pid)]
    for pid in left:
        kill(pid)
    assert not left, "with its pipe broken it ends"


def test_huge_output_is_read_to_its_end_and_kept_in_part() -> None:
    """A command that says far too much is not blocked, and no more than the limit is kept of each stream."""
    size = OUTPUT_LIMIT * 2
    script = f"import sys; sys.stdout.write('x' * {size}); sys.stderr.write('y' * {size}); sys.exit(5)"
    done = run([sys.executable, "-c", script])
    assert done.code == 5
    assert done.stdout == "x" * OUTPUT_LIMIT
    assert done.stderr == "y" * OUTPUT_LIMIT


def test_a_follower_keeps_the_last_lines() -> None:
    """Every line of both streams is heard in order, and the last ones are kept."""
    heard: list[str] = []
    done = follow(["sh", "-c", "seq 1 5000; echo end >&2"], heard.append)
    assert heard == [*map(str, range(1, 5001)), "end"]
    assert done.stdout.split("\n") == heard[-TAIL_LINES:]


def test_a_line_without_an_end_is_heard_in_bounded_pieces() -> None:
    """Ten megabytes without a line break never are one line, and memory holds one piece at a time."""
    heard: list[int] = []
    follow([sys.executable, "-c", "print('x' * 10_000_000)"], lambda line: heard.append(len(line)))
    assert heard
    assert max(heard) <= LINE_LIMIT


def test_carriage_returns_end_lines() -> None:
    """A progress bar that redraws its line is heard each time, without empty lines between."""
    heard: list[str] = []
    follow(["printf", r"10%%\r20%%\r\r30%%\r\n\n done \r\nrest"], heard.append)
    assert heard == ["10%", "20%", "30%", " done", "rest"]


def test_output_that_is_no_utf8_is_heard() -> None:
    """Bytes that are no text become replacement characters, and text in any script arrives."""
    heard: list[str] = []
    command = ["printf", r"a\377b\n\303\251t\303\251\n"]
    follow(command, heard.append)
    assert heard == ["a\ufffdb", "été"]
    assert run(command).stdout == "a\ufffdb\nété\n"


OPEN = """
  try:
    os.fstat(d)
    print('open')
  except OSError:
    print('closed')
"""


def test_only_named_descriptors_are_inherited(tmp_path: Path) -> None:
    """A child gets the descriptors that it is to keep and no others."""
    first, second = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in "ab")
    script = f"import os\nfor d in ({first}, {second}):\n" + OPEN
    try:
        assert run([sys.executable, "-c", script], keep=[first]).stdout == "open\nclosed\n"
        heard: list[str] = []
        follow([sys.executable, "-c", script], heard.append, keep=[second])
        assert heard == ["closed", "open"]
    finally:
        os.close(first)
        os.close(second)


_LEAVES_NOTHING = """
import contextlib, os
from sepal_provisioner.process import follow, run
run(["true"])
before = os.listdir("/proc/self/fd")
for _ in range(20):
    run(["true"])
    run(["sleep", "1000"], timeout=0.01)
    follow(["echo", "a"], lambda line: None)
    with contextlib.suppress(FileNotFoundError):
        run(["/missing"])
assert os.listdir("/proc/self/fd") == before, os.listdir("/proc/self/fd")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("nothing")
"""


def test_no_descriptor_and_no_zombie_is_left() -> None:
    """After commands of every kind a process has the same open descriptors as before, and no child."""
    done = run([sys.executable, "-c", _LEAVES_NOTHING])  # its own process: other tests' threads open and close, too
    assert (done.stdout, done.stderr) == ("nothing\n", "")


def test_a_spawned_process_is_on_its_own(tmp_path: Path) -> None:
    """A spawned process has a session of its own, no input, and appends its output to a file."""
    output = tmp_path / "log"
    output.write_text("before\n")
    script = 'cut -d" " -f6 /proc/$$/stat; pwd; cat; echo "$A" >&2'
    child = spawn(["sh", "-c", script], env={"A": "b", "PATH": os.defpath}, output=output)
    assert child.wait(PATIENCE) == 0
    before, session, folder, said = output.read_text().split()
    assert (before, int(session), folder, said) == ("before", child.pid, "/", "b")


def test_stop_is_polite_first(tmp_path: Path) -> None:
    """A process that ends on SIGTERM gets to say its last words."""
    output = tmp_path / "log"
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    child = start(["sh", "-c", script], env=os.environ, cwd=tmp_path, output=output)
    wait_for(output, "ready")
    stop(child, grace=PATIENCE)
    assert child.returncode == 0
    assert "bye" in output.read_text()


def test_stop_is_firm_in_the_end(tmp_path: Path) -> None:
    """A process that ignores SIGTERM is killed with its children after the grace."""
    output = tmp_path / "log"
    script = "trap '' TERM; sleep 1000 & echo $! ready; while :; do sleep 0.05; done"
    child = start(["sh", "-c", script], env=os.environ, cwd=tmp_path, output=output)
    wait_for(output, "ready")
    stop(child, grace=0.1)
    assert child.returncode == -signal.SIGKILL
    assert ended(int(output.read_text().split()[0]))


def test_stopping_what_has_ended_is_no_error(tmp_path: Path) -> None:
    """A process that is gone can be stopped once more."""
    child = start(["true"], env=os.environ, cwd=tmp_path, output=tmp_path / "log")
    child.wait(PATIENCE)
    stop(child)
    assert child.returncode == 0


def test_becoming_a_command_keeps_the_process() -> None:
    """The command that a process becomes has its number, the given environment, and descriptors marked inheritable."""
    script = (
        "import os, sys; from sepal_provisioner.process import become\n"
        "read, write = os.pipe(); os.set_inheritable(read, True); os.set_inheritable(write, True)\n"
        "print(os.getpid(), flush=True)\n"
        "become(['/bin/sh', '-c', f'echo $$; echo $A; echo kept >&{write} && echo open'], {'A': 'b'})"
    )
    done = run([sys.executable, "-c", script])
    before, after, value, kept = done.stdout.split()
    assert (after, value, kept) == (before, "b", "open")


def wait_for(path: Path, text: str) -> None:
    """Wait until a file holds a text."""
    until(lambda: path.exists() and text in path.read_text(), text, PATIENCE, every=0.01)


AUTOGROUP = Path("/proc/self/autogroup")
STAND_BACK = """
import sys, time
from pathlib import Path
from sepal_provisioner.process import run, stand_back
stand_back(7, 0, 0)
own = Path("/proc/self/autogroup")
deadline = time.monotonic() + 60
while sys.argv[1:] and not own.read_text().endswith(" 7\\n") and time.monotonic() < deadline:
    time.sleep(0.05)
print(own.read_text().split()[-1], run(["sh", "-c", "sleep 0.5; cat /proc/self/autogroup"]).stdout.split()[-1])
"""


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this Linux has no autogroups")
def test_a_session_stands_back_as_its_processes_do() -> None:
    """A build in a session of its own is weighed as little as its processes are, and so are the commands it runs."""
    done = subprocess.run(
        [sys.executable, "-c", STAND_BACK, "wait"], capture_output=True, check=False, start_new_session=True
    )
    assert done.stdout.split() == [b"7", b"7"], done


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this Linux has no autogroups")
def test_a_build_in_a_terminal_leaves_the_terminals_session_as_it_is() -> None:
    """Who repeats a build by the first line of its log finds the shell, and all that runs in it, as before."""
    terminal = ["sh", "-c", '"$@"; cat /proc/self/autogroup', "sh", sys.executable, "-c", STAND_BACK]
    done = subprocess.run(terminal, capture_output=True, check=False, start_new_session=True)
    assert done.stdout.split()[:2] == [b"0", b"7"] and done.stdout.endswith(b" nice 0\n"), done


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this Linux has no autogroups")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_many_builds_of_an_ordinary_user_all_stand_back() -> None:
    """Linux lets such a user change one session in a tenth of a second: eight that begin at once insist until each of
    them did. Their commands share the session, which Python can ask for since 3.11."""
    become = "import ctypes, os\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n"
    become += (
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable again, as whoever logged in is: /proc/self is theirs\n"
    )
    code = STAND_BACK.replace("stand_back(7", become + "stand_back(7")
    command = [sys.executable, "-c", code, "wait"]
    eight = [subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) for _ in range(8)]
    seen = [process.communicate(timeout=PATIENCE)[0].split() for process in eight]
    assert [builder for builder, _ in seen] == [b"7"] * 8
    assert sys.version_info < (3, 11) or [command for _, command in seen] == [b"7"] * 8


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this Linux has no autogroups")
def test_a_spawned_process_stands_back_from_its_first_moment(tmp_path: Path) -> None:
    """Before it has imported anything: eight builds that begin at once are not felt by who works beside them."""
    output = tmp_path / "output"
    child = spawn(["sh", "-c", "sleep 0.5; nice; cat /proc/self/autogroup"], output=output, niceness=7)
    child.wait(PATIENCE)
    assert output.read_text().split()[::3] == ["7", "7"], output.read_text()
