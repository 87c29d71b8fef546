"""The waiting kernel, as its clients meet it: it answers at once, holds, shows, hands over, and then only relays.

Where the build is not the point, the test plays it (see `stage`): it decides when what is published, and the kernel
that is handed over to is a real one all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from conftest import SMALL, Site
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.ioloop import AsyncIOLoopKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from slow import slow_channel
from stage import (
    NAME,
    OLD,
    PATIENCE,
    TITLE,
    Client,
    Message,
    Stage,
    Waiting,
    children,
    gone,
    greeting,
    is_idle,
    kinds,
    make_prefix,
    of,
    signed,
    text,
)
from traitlets.config import Config
from waits import until

from sepal_provisioner import SepalKernelSpecManager, relay
from sepal_provisioner.builds import Build, request_build
from sepal_provisioner.errors import BuildError, SettingsError, SolveError
from sepal_provisioner.generation import Record
from sepal_provisioner.held import HELD_LIMIT
from sepal_provisioner.launch import prepare
from sepal_provisioner.order import VARIABLE, Order
from sepal_provisioner.progress import Phase, read_progress
from sepal_provisioner.waiting import serve
from sepal_provisioner.wire import CHANNELS, Wire, read_connection

SLOW = 2_000_000  # bytes a second: a build of some ten seconds


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A kernel that somebody builds."""
    made = Stage(tmp_path / "stage")
    made.begin()
    yield made
    made.leave()


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Waiting, Client]]:
    """A kernel that was waited for and is there now, and a client. Tests leave it idle."""
    stage = Stage(tmp_path_factory.mktemp("relayed") / "stage")
    stage.begin()
    with stage.waiting() as waiting:
        client = waiting.client()
        stage.publish()
        assert client.run("6 * 7") == "42"
        yield waiting, client


def displays(client: Client, asked: str) -> list[Message]:
    """What is shown about a cell: displays and their updates."""
    return [m for m in client.output(asked) if m["msg_type"] in ("display_data", "update_display_data")]


def is_display(asked: str, kind: str = "display_data"):  # type: ignore[no-untyped-def]
    """A condition: a display about a cell."""
    return lambda message: of(message, asked) and message["msg_type"] == kind


def percent(message: Message) -> int:
    """How far a display says that the build is."""
    return int(re.search(r'aria-valuenow="(\d+)"', message["content"]["data"]["text/html"])[1])


def real_kernel(waiting: Waiting) -> int:
    """The process of the real kernel, once it was started."""
    pid = int(until(waiting.children, "a real kernel")[0])
    until(lambda: "ipykernel_launcher" in Path(f"/proc/{pid}/cmdline").read_text(), "its own command")
    return pid


def catches_interrupts(pid: int) -> bool:
    """Whether a process has a handler of its own for SIGINT now."""
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (signal.SIGINT - 1) & 1)


def private_folder(pid: int) -> Path:
    """The folder with the connection file that a real kernel was started with."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return Path(words[words.index("-f") + 1]).parent


# ------------------------------------------------------------------------------------------------ while it waits


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_it_answers_at_once_on_every_port(stage: Stage, transport: str) -> None:
    """With no environment there, all five sockets are bound, and what a client asks of a new kernel is answered."""
    with stage.waiting(transport=transport) as waiting:
        client = waiting.client()
        for channel in CHANNELS:
            assert greeting(waiting.connection, channel)[0] == 0xFF
        for channel in ("shell", "control"):
            asked = client.send("kernel_info_request", channel)
            reply = client.reply(asked)
            assert reply["channel"] == channel and reply["content"]["status"] == "ok"
            assert reply["content"]["language_info"]["name"] == "python"
            assert TITLE in reply["content"]["banner"]
            client.wait(lambda m: of(m, asked) and is_idle(m))  # noqa: B023
        assert client.reply(client.send("comm_info_request"))["content"] == {"status": "ok", "comms": {}}
        with waiting.context.socket(zmq.REQ) as heart:
            heart.connect(waiting.connection.address("hb"))
            heart.send(b"ping")
            assert heart.poll(PATIENCE * 1000) and heart.recv() == b"ping"
        assert not waiting.children()


def test_a_shutdown_while_waiting_ends_it_and_not_the_build(stage: Stage) -> None:
    """The reply comes on control and on iopub, the process ends with 0, and whoever builds goes on."""
    with stage.waiting() as waiting:
        client = waiting.client()
        client.cell("1")
        asked = client.send("shutdown_request", "control", restart=True)
        assert client.reply(asked)["content"] == {"status": "ok", "restart": True}
        client.wait(lambda m: m["msg_type"] == "shutdown_reply" and m["channel"] == "iopub")
        assert waiting.process.wait(PATIENCE) == 0
        assert not read_progress(stage.path("progress.json")).ended


def test_messages_that_are_not_ours_are_dropped(stage: Stage) -> None:
    """A wrong signature, frames that are no message and content that is no object: nothing answers, nothing is held."""
    with stage.waiting() as waiting:
        client = waiting.client()
        header = client.session.msg_header("execute_request")
        good = signed(client.session, [header, {}, {}, {"code": "1", "silent": False}])
        wrong = [
            [good[0], b"0" * 64, *good[2:]],
            [good[0], good[1], *good[3:], good[2]],
            [b"nothing"],
            [b"", b""],
            [good[0]],
            signed(client.session, [header, {}, {}, ["a", "list"]]),  # type: ignore[list-item]
            signed(client.session, [["a", "list"], {}, {}, {}]),  # type: ignore[list-item]
            signed(client.session, [{**header, "msg_type": ["execute_request"]}, {}, {}, {}]),
        ]
        for channel in ("shell", "control", "stdin"):
            for frames in wrong:
                client.sockets[channel].send_multipart(frames)
        before = len(client.heard)
        for channel in ("shell", "control"):
            client.reply(client.send("interrupt_request", channel))  # would be the answer of a held cell
        answers = [m for m in client.heard[before:] if m["channel"] != "iopub"]
        assert kinds(answers) == ["interrupt_reply"] * 2
        assert not [m for m in client.heard if m["parent_header"].get("msg_id") == header["msg_id"]]


def test_more_requests_than_can_be_held_are_refused(stage: Stage) -> None:
    """Request 1,001 is answered with an error that says why; those before it stay, and the kernel still answers."""
    with stage.waiting() as waiting:
        client = waiting.client()
        held = [client.send("complete_request", code="pri", cursor_pos=3) for _ in range(HELD_LIMIT)]
        cell = client.cell("1")
        error = client.reply(cell)["content"]
        assert error["status"] == "error" and f"More than {HELD_LIMIT} requests" in error["evalue"]
        assert [m["content"]["ename"] for m in client.finish(cell)] == [error["ename"]]
        assert client.reply(client.send("kernel_info_request"))["content"]["status"] == "ok"
        replied = {m["parent_header"]["msg_id"] for m in client.heard if m["channel"] == "shell"}
        assert not replied & set(held)


def test_more_bytes_than_can_be_held_are_refused(stage: Stage) -> None:
    """So is a request that would make it more than 100 MB; a small one still finds its place."""
    with stage.waiting() as waiting:
        client = waiting.client()
        large = "#" * 60_000_000
        first, second = client.cell(large, silent=True), client.cell(large, silent=True)
        assert "100 MB" in client.reply(second)["content"]["evalue"]
        small = client.cell("1")
        client.wait(is_display(small))
        waiting.interrupt()
        for asked in (first, small):
            assert client.reply(asked)["content"]["ename"] == "KeyboardInterrupt"


def test_nothing_is_shown_where_nobody_looks(stage: Stage) -> None:
    """Without a cell nothing is shown, and under a silent one neither, however far the build gets."""
    with stage.waiting() as waiting:
        client = waiting.client()
        silent, completion = client.cell("1", silent=True), client.send("complete_request", code="x", cursor_pos=1)
        stage.tell(phase=Phase.DOWNLOAD)
        visible = client.cell("2")
        client.wait(is_display(visible, "update_display_data"), number=2)
        assert not client.output(silent) and not client.output(completion)
        shown = [m for m in client.heard if "display_data" in m["msg_type"]]
        assert shown and all(of(m, visible) for m in shown)


def test_the_build_is_shown_under_the_first_cell(stage: Stage) -> None:
    """One display, updated in place, as HTML and as text; its number never falls, even when the build begins anew."""
    with stage.waiting() as waiting:
        client = waiting.client()
        first = client.cell("1")
        shown = client.wait(is_display(first))
        bundle = shown["content"]["data"]
        assert set(bundle) == {"text/html", "text/plain"}
        assert TITLE in bundle["text/html"] and TITLE in bundle["text/plain"]
        steps: list[dict[str, Any]] = [
            {"phase": Phase.SOLVE},
            {"phase": Phase.DOWNLOAD, "done": 12, "total": 48, "bytes_done": 5, "bytes_total": 10, "item": "libgdal"},
            {"phase": Phase.SOLVE, "done": 0, "total": 0, "bytes_done": 0, "bytes_total": 0, "item": "again"},
            {"phase": Phase.VERIFY},
        ]
        for step in steps:
            stage.tell(**step)
            sentence = stage.progress.sentence()
            client.wait(lambda m: is_display(first, "update_display_data")(m) and sentence in str(m["content"]))  # noqa: B023
        everything = displays(client, first)
        assert kinds(everything).count("display_data") == 1
        assert len({m["content"]["transient"]["display_id"] for m in everything}) == 1
        numbers = [percent(m) for m in everything]
        assert numbers == sorted(numbers) and numbers[-1] >= 90
        assert "Started by ada on lake" in everything[-1]["content"]["data"]["text/plain"]


def test_other_cells_get_one_quiet_line(stage: Stage) -> None:
    """The second cell of a notebook says which number it has and is never redrawn; another notebook's first is full."""
    with stage.waiting() as waiting:
        client, other = waiting.client(), waiting.client()
        first, second = client.cell("1"), client.cell("2")
        client.wait(is_display(second))
        theirs = other.cell("3")
        stage.tell(phase=Phase.PIP)
        for listener, asked in ((client, first), (other, theirs)):
            listener.wait(is_display(asked, "update_display_data"), number=2)
        (line,) = displays(client, second)
        assert line["content"]["data"]["text/plain"].count("\n") == 0 and "number 2" in str(line["content"]["data"])
        assert "progressbar" in displays(other, theirs)[-1]["content"]["data"]["text/html"]


@pytest.mark.parametrize("way", ["signal", "message"])
def test_an_interrupt_is_for_the_cells(stage: Stage, way: str) -> None:
    """Held cells answer KeyboardInterrupt and their displays go; the build goes on, and a later cell runs."""
    with stage.waiting() as waiting:
        client = waiting.client()
        cells = [client.cell(f"print({number})") for number in range(2)]
        completion = client.send("complete_request", code="pri", cursor_pos=3)
        client.wait(is_display(cells[1]))
        if way == "signal":
            waiting.interrupt()
        else:
            assert client.reply(client.send("interrupt_request", "control"))["content"] == {"status": "ok"}
        for asked in cells:
            output = client.finish(asked)
            assert kinds(output)[-2:] == ["clear_output", "error"] and text(output) == "KeyboardInterrupt: "
            assert client.reply(asked)["content"]["status"] == "error"
        assert waiting.process.poll() is None and not stage.progress.ended
        later = client.cell("import os; os.environ['STAGE']")
        client.wait(is_display(later))
        generation = stage.publish()
        assert text(client.finish(later)) == repr(generation.path.name)
        assert "print" in client.reply(completion)["content"]["matches"]


# ------------------------------------------------------------------------------------------- when there is no build


def test_a_failed_build_is_every_cells_answer(stage: Stage) -> None:
    """Held and later cells say which environment, why, where the log is and what to do; a cell that is sent after
    somebody did build it runs."""
    with stage.waiting() as waiting:
        client = waiting.client()
        cell = client.cell("1")
        completion = client.send("complete_request", code="x", cursor_pos=1)
        client.wait(is_display(cell))
        stage.fail(SolveError("Nothing provides <x>.", detail="The solver's own words"))
        for asked in (cell, client.cell("2")):
            output = client.finish(asked)
            error = output[-1]["content"]
            assert error["ename"] == "unsolvable" and error["evalue"] == "Nothing provides <x>."
            words = "\n".join(error["traceback"])
            for wanted in (TITLE, "Nothing provides <x>.", "The solver's own words", f"jupyter sepal build {NAME}"):
                assert wanted in words
            assert str(stage.path("log")) in words and f"jupyter sepal log {NAME}" in words
            assert client.reply(asked)["content"]["status"] == "error"
        assert "clear_output" in kinds(client.output(cell))
        assert client.reply(completion)["msg_type"] == "complete_reply"
        assert client.reply(completion)["content"]["status"] == "error"
        stage.publish()
        assert client.run("6 * 7") == "42"


def test_a_remembered_failure_is_told_at_once(stage: Stage) -> None:
    """A start soon after a failure builds nothing: the first cell says why, where the log is, and how to try again."""
    stage.fail(SolveError("Nothing provides x."))
    before = stage.path("progress.json").stat().st_mtime_ns
    with stage.waiting() as waiting:
        client = waiting.client()
        (error,) = client.finish(client.cell("1"))
        words = "\n".join(error["content"]["traceback"])
        assert "Nothing provides x." in words and "--force" in words and str(stage.path("log")) in words
        assert not waiting.children()
    assert stage.path("progress.json").stat().st_mtime_ns == before and not stage.path("request.json").exists()


def test_a_kernel_that_dies_at_once_is_told(stage: Stage) -> None:
    """A prefix whose interpreter ends by itself: the cell says so, its folder is removed, the waiting kernel lives."""
    generation = stage.prefix()
    python = Path(generation.python)
    python.unlink()
    python.write_text("#!/bin/sh\nexit 7\n")
    python.chmod(0o755)
    # Sockets' paths are short: the tests' own folders may be too long for them.
    with tempfile.TemporaryDirectory(prefix="sepal-test-") as short, stage.waiting(TMPDIR=short) as waiting:
        client = waiting.client()
        cell = client.cell("1")
        stage.publish(generation)
        assert "exit code 7" in text(client.finish(cell))
        assert "exit code 7" in client.run("2")
        assert not list(Path(short).glob("sepal-*"))


def test_a_kernel_that_stays_silent_is_given_up(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A real kernel that never answers is an error after a while, not an endless wait."""
    monkeypatch.setattr(relay, "START_SECONDS", 0.2)
    generation = stage.prefix()
    python = Path(generation.python)
    python.unlink()
    python.write_text("#!/bin/sh\nexec sleep 600\n")
    python.chmod(0o755)
    stage.publish(generation)
    with stage.waiting() as waiting:
        wire = Wire(waiting_connection(tmp_path))
        launch = prepare(generation, NAME, os.environ, stage.order().settings)
        real = relay.RealKernel(launch, [], wire, tmp_path)
        launch.close()
        with pytest.raises(BuildError, match="no answer"):
            until(real.step, "an answer")
        real.process.kill()
        real.process.wait()
        real.remove()
        assert waiting.process.poll() is None


def waiting_connection(folder: Path):  # type: ignore[no-untyped-def]
    """A connection of this process's own."""
    from jupyter_client.connect import write_connection_file

    path, _ = write_connection_file(str(folder / "own.json"), key=b"a key")
    return read_connection(Path(path))


def test_an_automatic_restart_never_builds(tmp_path: Path) -> None:
    """Where a start may not build, cells say so, and no request or progress is ever written."""
    stage = Stage(tmp_path / "stage")
    with stage.waiting(order=stage.order(may_build=False)) as waiting:
        client = waiting.client()
        (error,) = client.finish(client.cell("1"))
        assert "an automatic restart never builds" in error["content"]["evalue"]
        assert not stage.store.folder(NAME).exists()
        stage.publish(fingerprint=OLD)
    with stage.waiting(order=stage.order(may_build=False)) as waiting:
        assert waiting.client().run("import os; os.environ['STAGE']") == f"'{OLD}-1'"
        assert not stage.path("request.json").exists()


def ask(manager: KernelManager, code: str) -> str:
    """Run a cell in a manager's kernel."""
    context = zmq.Context()
    try:
        return Client(read_connection(Path(manager.connection_file)), context).run(code)
    finally:
        context.destroy(0)


def test_jupyters_restarter_never_builds(tmp_path: Path) -> None:
    """A kernel that died after its prefix was removed is restarted by jupyter_client, and then tells so; only a
    person's restart asks for a build."""
    stage = Stage(tmp_path / "stage")
    generation = stage.publish()

    async def story() -> None:
        config = Config(Sepal=stage.values(), KernelRestarter={"time_to_dead": 0.2})
        specs = SepalKernelSpecManager(config=config)
        manager = AsyncIOLoopKernelManager(kernel_name=NAME, kernel_spec_manager=specs, config=config)
        await manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert await asyncio.to_thread(ask, manager, "6 * 7") == "42"
            first = manager.provisioner.process
            generation.marker.unlink()
            os.kill(first.pid, signal.SIGKILL)
            await asyncio.to_thread(until, lambda: manager.provisioner.process not in (first, None), "a restart")
            assert "an automatic restart never builds" in await asyncio.to_thread(ask, manager, "1")
            assert not stage.path("request.json").exists()
            await manager.restart_kernel(now=True)
            await asyncio.to_thread(until, stage.path("request.json").exists, "a person's restart asks for a build")
        finally:
            await manager.shutdown_kernel(now=True)

    asyncio.run(story())


def test_to_wait_costs_next_to_nothing(stage: Stage) -> None:
    """Forty kernels that wait for one build must leave it the processors: in no phase does one that shows a cell's
    progress take more than a twenty-fifth of one."""
    with stage.waiting() as waiting:
        client = waiting.client()
        client.wait(is_display(client.cell("1")))
        for phase in (Phase.SOLVE, Phase.COMPILE, Phase.VERIFY):
            stage.tell(phase=phase)
            until(lambda phase=phase: phase.value in waiting.printed(), "the phase")
            before, began = processor_time(waiting.process.pid), time.monotonic()
            time.sleep(2)
            assert processor_time(waiting.process.pid) - before < (time.monotonic() - began) / 25


def processor_time(pid: int) -> float:
    """Seconds that a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -------------------------------------------------------------------------------------------------- the hand-over


def test_held_requests_are_answered_in_order(stage: Stage) -> None:
    """Three cells, a completion between them and an inspection are answered by the real kernel as they were asked; what
    was shown is cleared before a cell's own output, and nothing else is left under it."""
    with stage.waiting() as waiting:
        client = waiting.client()
        cells = [client.cell("seen = [1]; seen"), client.cell("seen.append(2); seen")]
        completion = client.send("complete_request", code="seen.app", cursor_pos=8)
        inspection = client.send("inspect_request", code="len", cursor_pos=3, detail_level=0)
        cells.append(client.cell("seen.append(3); print(seen)"))
        client.wait(is_display(cells[2]))
        stage.publish()
        results = [client.finish(asked) for asked in cells]
        assert [text(output) for output in results] == ["[1]", "[1, 2]", "[1, 2, 3]\n"]
        for output in results:
            first_clear = kinds(output).index("clear_output")
            assert set(kinds(output)[:first_clear]) <= {"display_data", "update_display_data"}
            assert output[first_clear]["content"] == {"wait": False}
            assert kinds(output)[first_clear + 1 :] in (["execute_result"], ["stream"])
        assert "append" in client.reply(completion)["content"]["matches"]
        assert client.reply(inspection)["content"]["found"] is True
        order = [m["parent_header"]["msg_id"] for m in client.heard if m["channel"] == "shell"]
        asked_in_order = [cells[0], cells[1], completion, inspection, cells[2]]
        assert [asked for asked in order if asked in asked_in_order] == asked_in_order
        numbers = [client.reply(asked)["content"]["execution_count"] for asked in cells]
        assert numbers == [1, 2, 3]
        said = client.wait(lambda m: of(m, cells[0]) and is_idle(m))
        assert client.heard.index(said) > client.heard.index(results[0][-1])


RECORDER = """
import base64, json, os, sys, zmq
from jupyter_client.session import Session

connection = json.load(open(sys.argv[sys.argv.index("-f") + 1]))
context, session = zmq.Context(), Session(key=connection["key"].encode())
sockets, poller = {}, zmq.Poller()
for channel, kind in {"shell": zmq.ROUTER, "control": zmq.ROUTER, "stdin": zmq.ROUTER, "iopub": zmq.PUB}.items():
    sockets[channel] = context.socket(kind)
    sockets[channel].bind(f"ipc://{connection['ip']}-{connection[channel + '_port']}")
    poller.register(sockets[channel], zmq.POLLIN)
parent = os.getppid()
with open(RECORD, "a") as record:
    while os.getppid() == parent:
        for socket, _ in poller.poll(100):
            channel = next(name for name in sockets if sockets[name] is socket)
            frames = socket.recv_multipart()
            if b"kernel_info_request" in frames[frames.index(b"<IDS|MSG>") + 2]:
                identities, parts = session.feed_identities(list(frames))
                message = session.deserialize(parts)
                session.send(sockets["iopub"], "status", {"execution_state": "busy"}, parent=message)
                session.send(socket, "kernel_info_reply", {}, parent=message, ident=identities)
            else:
                record.write(json.dumps([channel, [base64.b64encode(f).decode() for f in frames]]) + "\\n")
                record.flush()
"""


def test_held_frames_are_replayed_byte_for_byte(stage: Stage, tmp_path: Path) -> None:
    """What reaches the real kernel are the client's own frames, spaces, unknown keys and buffers included, in order."""
    import base64

    record, script = tmp_path / "record", tmp_path / "recorder.py"
    script.write_text(RECORDER.replace("RECORD", repr(str(record))))
    generation = stage.prefix()
    python = Path(generation.python)
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    with stage.waiting() as waiting:
        client = waiting.client()
        sent = []
        sorts = ("execute_request", "comm_msg", "inspect_request", "of_our_own", "execute_request")
        for number, kind in enumerate(sorts):
            header = {**client.session.msg_header(kind), "ünknown": number}
            content = {"code": f"é{number}", "silent": False, "more": [number, None]}
            frames = signed(client.session, [header, {}, {"meta": "dåta"}, content], [bytes([number]) * 1000, b""])
            client.sockets["shell"].send_multipart(frames)
            sent.append(frames)
        debug = signed(client.session, [client.session.msg_header("debug_request"), {}, {}, {"seq": 1}])
        client.sockets["control"].send_multipart(debug)
        client.wait(lambda m: m["msg_type"] == "display_data", number=2)
        stage.publish(generation)
        later = signed(client.session, [client.session.msg_header("comm_msg"), {}, {}, {"later": True}])
        until(lambda: record.exists() and record.read_text().count("\n") == len(sent) + 1, "the held requests")
        client.sockets["shell"].send_multipart(later)
        until(lambda: record.read_text().count("\n") == len(sent) + 2, "what is sent afterwards")
        came: dict[str, list[list[bytes]]] = {"shell": [], "control": []}
        for line in record.read_text().splitlines():
            channel, frames = json.loads(line)
            decoded = [base64.b64decode(frame) for frame in frames]
            assert decoded[1] == client.session.bsession
            came[channel].append(decoded[decoded.index(b"<IDS|MSG>") :])
        assert came == {"shell": [*sent, later], "control": [debug]}


def test_an_interrupt_while_the_kernel_starts_does_not_kill_it(stage: Stage, tmp_path: Path) -> None:
    """Between the real kernel's start and its first answer, an interrupt ends the held cell; the next one runs."""
    gate = tmp_path / "gate"  # until it is there, the kernel has been started and says nothing
    generation = stage.prefix()
    python = Path(generation.python)
    real = python.rename(python.with_name("python-itself"))
    python.write_text(f'#!/bin/sh\nuntil [ -e "{gate}" ]; do sleep 0.05; done\nexec "{real}" "$@"\n')
    python.chmod(0o755)
    with stage.waiting() as waiting:
        client = waiting.client()
        cell = client.cell("1")
        client.wait(is_display(cell))
        stage.publish(generation)
        pid = real_kernel(waiting)
        until(lambda: catches_interrupts(waiting.process.pid), "the end of the moment in which it starts the kernel")
        waiting.interrupt()
        assert text(client.finish(cell)).startswith("KeyboardInterrupt")
        gate.touch()
        assert client.run("import os; os.getpid()") == str(pid)


def test_a_shutdown_while_the_kernel_starts_ends_both(stage: Stage) -> None:
    """No real kernel and no private folder stay behind."""
    with stage.waiting() as waiting:
        client = waiting.client()
        stage.publish()
        pid = real_kernel(waiting)
        folder = private_folder(pid)
        client.reply(client.send("shutdown_request", "control", restart=False))
        assert waiting.process.wait(PATIENCE) == 0
        assert gone(pid) and not folder.exists()


def test_a_long_temporary_folder_is_no_obstacle(stage: Stage, tmp_path: Path) -> None:
    """The private sockets' paths have 107 bytes at most, whatever TMPDIR is."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    with stage.waiting(TMPDIR=str(long)) as waiting:
        client = waiting.client()
        stage.publish()
        assert client.run("6 * 7") == "42"


# ------------------------------------------------------------------------------------------------------ the relay


def test_a_cell_may_ask_for_input(relayed: tuple[Waiting, Client]) -> None:
    """`input()` asks the client that sent the cell, and gets its answer."""
    waiting, client = relayed
    other = waiting.client()
    cell = client.cell("input('name? ')", allow_stdin=True)
    question = client.wait(lambda m: of(m, cell) and m["msg_type"] == "input_request")
    assert question["channel"] == "stdin" and question["content"]["prompt"] == "name? "
    client.session.send(client.sockets["stdin"], "input_reply", {"value": "Ada"}, parent=question)
    assert text(client.finish(cell)) == "'Ada'"
    other.listen()
    assert not [m for m in other.heard if m["channel"] == "stdin"]


ECHO = """
def opened(comm, message):
    comm.on_msg(lambda m: comm.send(m["content"]["data"], buffers=m["buffers"]))

get_ipython().kernel.comm_manager.register_target("echo", opened)
"""


def test_comms_carry_data_and_large_buffers_both_ways(relayed: tuple[Waiting, Client]) -> None:
    """A comm that echoes gives back its data and 20 MB of binary buffers unchanged."""
    _, client = relayed
    client.run(ECHO)
    buffers = [os.urandom(20_000_000), b"", bytes(range(256))]
    client.send("comm_open", comm_id="one", target_name="echo", data={})
    asked = client.send("comm_msg", comm_id="one", data={"grüße": [1, None]}, buffers=buffers)
    answer = client.wait(lambda m: of(m, asked) and m["msg_type"] == "comm_msg")
    assert answer["content"]["data"] == {"grüße": [1, None]}
    assert [bytes(buffer) for buffer in answer["buffers"]] == buffers


def test_the_debugger_answers(relayed: tuple[Waiting, Client]) -> None:
    """A debug_request on the control channel reaches the kernel's debugger."""
    _, client = relayed
    arguments = {"clientID": "test", "adapterID": "", "pathFormat": "path", "linesStartAt1": True}
    content = {"type": "request", "seq": 1, "command": "initialize", "arguments": arguments}
    reply = client.reply(client.send("debug_request", "control", **content))
    assert reply["channel"] == "control" and reply["content"]["success"] is True
    client.reply(client.send("debug_request", "control", type="request", seq=2, command="disconnect", arguments={}))


def test_a_hundred_megabytes_arrive(relayed: tuple[Waiting, Client]) -> None:
    """Nothing of a cell's output is lost or changes places, however much it is."""
    _, client = relayed
    cell = client.cell("for i in range(100): print(f'{i:010}' * 100_000, flush=True)")
    printed = text(client.finish(cell))
    assert len(printed) == 100 * 1_000_001
    assert printed == "".join(f"{i:010}" * 100_000 + "\n" for i in range(100))


# A cell says that it runs by making a folder, which is one call of the system: while it prints, an interrupt would meet
# the locks of the output.
COUNT_INTERRUPTS = """
import os, time
seen, told = 0, False
while True:
    try:
        if not told:  # in here: from the moment at which the folder is seen, an interrupt may come
            told = True
            os.mkdir({folder!r})
        while not seen:
            time.sleep(0.01)
        time.sleep(0.5)  # a second one would come now
        break
    except KeyboardInterrupt:
        seen += 1
seen
"""
SLEEP = """
if True:  # one statement: nothing of IPython's own runs between the two
    os.mkdir({folder!r})
    time.sleep(600)
"""


@pytest.mark.parametrize("way", ["signal", "message"])
def test_an_interrupt_reaches_the_kernel_once(relayed: tuple[Waiting, Client], way: str, tmp_path: Path) -> None:
    """After the hand-over the interrupt is the running cell's, exactly one; the next cell runs."""
    waiting, client = relayed

    def interrupt() -> None:
        if way == "signal":
            waiting.interrupt()
        else:
            client.reply(client.send("interrupt_request", "control"))

    running = tmp_path / "counting"
    cell = client.cell(COUNT_INTERRUPTS.format(folder=str(running)))
    until(running.exists, "the cell to run")
    interrupt()
    assert text(client.finish(cell)) == "1"
    running = tmp_path / "sleeping"
    cell = client.cell(SLEEP.format(folder=str(running)))
    until(running.exists, "the cell to run")
    for _ in range(10):  # Python drops one that comes while it runs a finalizer, in every kernel
        interrupt()
        with contextlib.suppress(TimeoutError):
            assert "KeyboardInterrupt" in text(client.finish(cell, timeout=10))
            break
    assert client.run("6 * 7") == "42"


def test_a_client_that_comes_later_hears_everything(relayed: tuple[Waiting, Client]) -> None:
    """A second notebook on the same kernel gets its own replies, and the output of both; when all left, one that comes
    back hears again."""
    waiting, client = relayed
    second = waiting.client()
    theirs = client.cell("print('for all')")
    client.finish(theirs)
    second.wait(lambda m: of(m, theirs) and m["msg_type"] == "stream")
    assert second.run("'mine'") == "'mine'"
    assert not [m for m in second.heard if of(m, theirs) and m["channel"] == "shell"]


def test_the_private_connection_is_private(relayed: tuple[Waiting, Client]) -> None:
    """Its folder is 0700 and its file 0600, and it has the clients' key, so that frames pass unread."""
    waiting, _ = relayed
    folder = private_folder(real_kernel(waiting))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "kernel.json").stat().st_mode & 0o777 == 0o600
    private = read_connection(folder / "kernel.json")
    assert private.transport == "ipc" and private.key == waiting.connection.key
    assert len(list(folder.glob("s-*"))) == len(CHANNELS)


@pytest.mark.parametrize(
    ("code", "status"),
    [("import os; os._exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9), ("quit()", 0)],
)
def test_it_ends_as_the_real_kernel_ends(stage: Stage, code: str, status: int) -> None:
    """The relay's exit status is the kernel's, a signal included; what it said last arrives; its folder is removed."""
    with stage.waiting() as waiting:
        client = waiting.client()
        stage.publish()
        client.run("6 * 7")
        folder = private_folder(real_kernel(waiting))
        # A process that kills itself takes along what its own zmq has not sent yet, with or without a relay.
        cell = client.cell(f"import time; print('the last words', flush=True); time.sleep(1); {code}")
        client.wait(lambda m: of(m, cell) and m["msg_type"] == "stream")
        assert waiting.process.wait(PATIENCE) == status
        assert not folder.exists()


def test_a_polite_shutdown_goes_through(stage: Stage) -> None:
    """The real kernel answers shutdown_request itself, then both processes end, and nothing is left."""
    with stage.waiting() as waiting:
        client = waiting.client()
        stage.publish()
        client.run("6 * 7")
        pid = real_kernel(waiting)
        folder = private_folder(pid)
        reply = client.reply(client.send("shutdown_request", "control", restart=False))
        assert reply["content"]["status"] == "ok"
        assert waiting.process.wait(PATIENCE) == 0
        assert gone(pid) and not folder.exists()


KEEP = """
import os, subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], env={**os.environ, "JPY_PARENT_PID": str(os.getpid())})
time.sleep(3600)
"""


@pytest.mark.parametrize("ready", [False, True])
def test_nothing_outlives_the_server(stage: Stage, ready: bool) -> None:
    """When the process that started it is killed, the waiting kernel ends, and the real one with it."""
    with stage.waiting(through=[sys.executable, "-c", KEEP]) as waiting:
        client = waiting.client()
        (pid,) = waiting.children()
        processes = [pid]
        if ready:
            stage.publish()
            assert client.run("6 * 7") == "42"
            processes += children(pid)
            assert len(processes) == 2
        os.kill(waiting.process.pid, signal.SIGKILL)
        until(lambda: all(gone(process) for process in processes), "the end of both")


def test_the_real_kernel_does_not_outlive_its_relay(stage: Stage) -> None:
    """When the relay is killed the real kernel ends by itself, and the next one removes what is left in /tmp."""
    with tempfile.TemporaryDirectory(prefix="sepal-test-") as short:  # the sockets' paths fit below it
        with stage.waiting(TMPDIR=short) as waiting:
            client = waiting.client()
            stage.publish()
            client.run("6 * 7")
            pid = real_kernel(waiting)
            folder = private_folder(pid)
            assert folder.parent == Path(short)
            os.kill(waiting.process.pid, signal.SIGKILL)
            waiting.process.wait()
            until(lambda: gone(pid), "the real kernel's end")
        assert folder.exists()
        with stage.waiting(TMPDIR=short) as waiting:
            assert waiting.client().run("6 * 7") == "42"
            assert not folder.exists()


class DeclaringManager(SepalKernelSpecManager):
    """A site that declares that its kernels can encrypt their connections."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        spec = super().get_kernel_spec(kernel_name)
        spec.metadata["supported_encryption"] = "curve"
        return spec


def answer(client: BlockingKernelClient, asked: str) -> Message | None:
    """The next message on the shell channel, if it is the reply to a request."""
    message: Message = client.get_shell_msg(timeout=PATIENCE)
    return message if of(message, asked) else None


@pytest.mark.skipif(not hasattr(KernelManager, "transport_encryption"), reason="this jupyter_client can't encrypt")
def test_encrypted_connections(stage: Stage) -> None:
    """With `transport_encryption = "required"` the waiting kernel and the relay work, and a client without the keys
    gets nothing."""
    config = Config(Sepal=stage.values(), KernelManager={"transport_encryption": "required"})
    manager = KernelManager(kernel_name=NAME, kernel_spec_manager=DeclaringManager(config=config), config=config)
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    try:
        connection = read_connection(Path(manager.connection_file))
        assert connection.curve is not None
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE)
        cell = client.execute("6 * 7")
        until(lambda: client.get_iopub_msg(timeout=PATIENCE)["msg_type"] == "display_data", "the progress")
        with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
            plain.linger = 0
            plain.connect(connection.address("shell"))
            connection.session().send(plain, "kernel_info_request", {})
            stage.publish()
            until(lambda: answer(client, cell), "the reply")
            assert not plain.poll(0)
        assert client.hb_channel.is_beating()
        assert client.execute("2 * 21", reply=True, timeout=PATIENCE)["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_jupyters_own_manager_and_client(stage: Stage) -> None:
    """jupyter_client starts, interrupts, restarts and shuts down a kernel that waits, and then one that is relayed."""
    config = Config(Sepal=stage.values())
    specs = SepalKernelSpecManager(config=config)
    manager = KernelManager(kernel_name=NAME, kernel_spec_manager=specs, config=config)
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        waited = client.execute("1")
        until(lambda: client.get_iopub_msg(timeout=PATIENCE)["msg_type"] == "display_data", "the progress")
        manager.interrupt_kernel()
        reply = until(lambda: answer(client, waited), "the reply")
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        manager.restart_kernel()
        client.wait_for_ready(timeout=PATIENCE)
        stage.publish()
        assert client.execute("6 * 7", reply=True, timeout=PATIENCE)["content"]["execution_count"] == 1
        assert "waiting" in Path(f"/proc/{manager.provisioner.process.pid}/cmdline").read_text()
        manager.shutdown_kernel()
        assert not manager.is_alive()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# ----------------------------------------------------------------------------------------------- an older version


def notes(messages: list[Message]) -> list[str]:
    """The remarks among a cell's output."""
    return [m["content"]["data"]["text/plain"] for m in messages if m["msg_type"] == "display_data"]


WHICH = "import os; os.environ['STAGE']"


def test_an_older_version_runs_at_once(stage: Stage) -> None:
    """A completion and a silent cell work before anything else; the first cell that shows something says, once, that a
    newer version is being built."""
    stage.publish(stage.prefix(OLD))
    stage.begin()
    with stage.waiting() as waiting:
        client = waiting.client()
        completion = client.reply(client.send("complete_request", code="pri", cursor_pos=3))
        assert "print" in completion["content"]["matches"]
        assert client.finish(client.cell("ran = True", silent=True)) == []
        first, second = (client.finish(client.cell(WHICH)) for _ in range(2))
        assert text(first) == text(second) == f"'{OLD}-1'"
        (note,) = notes(first)
        assert "older version" in note and "being built" in note and not notes(second)
        assert kinds(first) == ["display_data", "execute_result"]
        assert not stage.progress.ended


def test_an_older_versions_end_before_any_cell_is_the_waiting_kernels_end(stage: Stage) -> None:
    """While messages are still looked at for the first cell, the real kernel ends: so do we, with its exit code, and
    Jupyter notices."""
    stage.publish(stage.prefix(OLD))
    stage.begin()
    with stage.waiting() as waiting:
        client = waiting.client()
        assert client.finish(client.cell("ran = True", silent=True)) == []
        client.cell("import os; os._exit(3)", silent=True)
        assert waiting.process.wait(PATIENCE) == 3


def test_the_remark_is_above_a_held_cells_output(stage: Stage) -> None:
    """So it is for a cell that was sent before the older version had started, the first that shows something."""
    stage.publish(stage.prefix(OLD))
    stage.begin()
    with stage.waiting() as waiting:
        client = waiting.client()
        silent, first, second = client.cell("1", silent=True), client.cell(WHICH), client.cell(WHICH)
        assert client.finish(silent) == [] and not notes(client.finish(second))
        (note,) = notes([m for m in client.finish(first) if "transient" not in m or not m["content"]["transient"]])
        assert "older version" in note and text(client.finish(first)) == f"'{OLD}-1'"


def test_the_remark_says_how_the_newer_one_is(stage: Stage) -> None:
    """When the newer version is ready by the first cell, the remark says so; when it failed, why."""
    old = stage.prefix(OLD)
    stage.publish(old)
    stage.begin()
    with stage.waiting() as one, stage.waiting() as two:
        clients = [one.client(), two.client()]
        for client in clients:
            client.reply(client.send("complete_request", code="pri", cursor_pos=3))
        stage.fail(SolveError("Nothing provides x."))
        (note,) = notes(clients[0].finish(clients[0].cell("1")))
        assert "failed: Nothing provides x." in note
        stage.publish()
        (note,) = notes(clients[1].finish(clients[1].cell("1")))
        assert "is ready: restart the kernel" in note


def test_a_site_may_wait_for_the_newest(tmp_path: Path) -> None:
    """With `when_outdated = "wait"` the older version is not used: the cell waits for the new one, without a remark."""
    stage = Stage(tmp_path / "stage", when_outdated="wait")
    stage.publish(fingerprint=OLD)
    stage.begin()
    with stage.waiting() as waiting:
        client = waiting.client()
        cell = client.cell(WHICH)
        client.wait(is_display(cell, "update_display_data"))
        assert not waiting.children()
        generation = stage.publish()
        output = client.finish(cell)
        assert text(output) == f"'{generation.path.name}'"
        assert kinds(output)[-2:] == ["clear_output", "execute_result"]


# ------------------------------------------------------------------------------------------------------ real builds


@contextlib.contextmanager
def started(site: Site, name: str) -> Iterator[tuple[Waiting, Client]]:
    """A waiting kernel of a site, and a client."""
    folder = Path(tempfile.mkdtemp(dir=site.root))
    waiting = Waiting(folder, "tcp", Order(name, f"(venv) {name}", site.settings()), (), {})
    try:
        yield waiting, waiting.client()
    finally:
        waiting.end()


def test_a_real_build_outlives_its_kernel(conda_site: Site, channel: Path) -> None:
    """The kernel that began a build is shut down, the build goes on, and a second kernel waits for the same one and
    says who began it; a build that is killed is taken over, and the cell gets its result all the same."""
    with slow_channel(channel, SLOW) as (mirrors, line):
        conda_site.mirrors = mirrors
        conda_site.add("small", {"sepal_environment.yml": SMALL})
        conda_site.sync()
        kernel = conda_site.stores.find("venv-small")[1]
        path = conda_site.store.beside(kernel.name, kernel.fingerprint, "progress.json")

        def pid() -> int:
            progress = read_progress(path)
            return progress.pid if progress is not None and progress.phase is Phase.DOWNLOAD else 0

        with started(conda_site, "venv-small") as (waiting, client):
            cell = client.cell("1")
            builder = until(pid, "the download")
            assert not [m for m in displays(client, cell) if "Started by" in str(m["content"])]
            client.reply(client.send("shutdown_request", "control", restart=False))
            assert waiting.process.wait(PATIENCE) == 0
        assert not gone(builder)
        with started(conda_site, "venv-small") as (waiting, client):
            cell = client.cell("import sepal_demo, sys; sys.prefix")
            client.wait(lambda m: is_display(cell)(m) and "Started by" in str(m["content"]))
            before = percent(client.wait(is_display(cell, "update_display_data")))
            os.kill(builder, signal.SIGKILL)
            until(lambda: pid() not in (0, builder), "the next builder")
            line.open()
            output = client.finish(cell)
            ready = conda_site.stores.observe(kernel).ready
            assert ready is not None and text(output) == repr(str(ready.path))
            numbers = [percent(m) for m in displays(client, cell)]
            assert numbers == sorted(numbers) and numbers[-1] >= before
            assert waiting.printed().splitlines()[-1].startswith("[sepal] venv-small: ")


def test_a_newer_version_is_built_behind_an_older_one(conda_site: Site) -> None:
    """The older prefix runs at once, and when the background build is done a new start runs the newer one."""
    conda_site.add("small", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    kernel = conda_site.stores.find("venv-small")[1]
    old = conda_site.store.next_generation(kernel.name, OLD)
    make_prefix(old.path)
    old.publish(Record(kernel.name, OLD, "a test", conda=False))
    with started(conda_site, kernel.name) as (_, client):
        assert client.run("import sys; sys.prefix") == repr(str(old.path))
        build = request_build(conda_site.stores, kernel.name, conda_site.settings())
        ready = build.wait() if isinstance(build, Build) else build
        assert client.run("import sys; sys.prefix") == repr(str(old.path))
        assert len(conda_site.store.generations(kernel.name)) == 2
    with started(conda_site, kernel.name) as (_, client):
        assert client.run("import sys; sys.prefix") == repr(str(ready.path))


# ------------------------------------------------------------------------------------------------- how it is started


def test_an_order_survives_its_variable(stage: Stage) -> None:
    """What the variable holds is read back as it was; anything else is said to be unusable."""
    order = stage.order(may_build=False, display_name="(venv) Ünïcode “x”")
    again = Order.from_variable(order.to_variable())
    assert (again.name, again.display_name, again.may_build) == (order.name, order.display_name, False)
    assert again.settings.to_json() == order.settings.to_json()
    for value in (None, "", "{", "[]", "{}", '{"name": "x", "display_name": "x", "may_build": 1, "settings": 3}'):
        with pytest.raises(SettingsError):
            Order.from_variable(value)


def test_what_it_cannot_start_with_is_told(stage: Stage, tmp_path: Path) -> None:
    """No connection file, an unreadable one, no order, or a port that is taken: a line on standard error and the exit
    code of the error."""
    for arguments in ([], ["-f"]):
        with pytest.raises(SettingsError, match="connection file"):
            serve(stage.order(), arguments, {})
    broken = tmp_path / "connection.json"
    for content in ("", "{", "[]", "{}", '{"ip": "127.0.0.1", "key": 3}'):
        broken.write_text(content)
        with pytest.raises(SettingsError, match="can't be used"):
            serve(stage.order(), ["-f", str(broken)], {})
    command = [sys.executable, "-m", "sepal_provisioner.waiting", "-f", str(broken)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("[sepal] ")
    with stage.waiting() as waiting:
        waiting.client()
        command[-1] = str(waiting.file)
        env = {**os.environ, VARIABLE: stage.order().to_variable()}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 2 and "can't listen on tcp://127.0.0.1:" in done.stderr
    assert len(done.stderr.splitlines()) == 1
