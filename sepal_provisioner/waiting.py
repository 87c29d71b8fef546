"""The waiting kernel: what is started while an environment is not there.

It binds the connection file's ports at once, so that no request waits for a build and no proxy ends one. It answers
what a kernel must answer, holds the rest, shows the build under the first cell, and becomes a relay to the real kernel
when the prefix is ready.

    python -m sepal_provisioner.waiting -f <connection file>        with what to start in the variable SEPAL_LAUNCH
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import zmq

from . import display
from .builds import LOOK_EVERY, Build, request_build
from .errors import BuildError, SepalError, SettingsError
from .generation import Generation
from .held import HELD_BYTES, HELD_LIMIT, Held, Queue, is_visible
from .launch import prepare, ready_generation
from .order import VARIABLE, Order
from .progress import Phase, Progress
from .relay import RealKernel
from .screen import Screen
from .store import Stores
from .wire import Wire, read_connection

TICK = 100  # milliseconds between two looks at the build
SHORT_TICK = 4  # when the real kernel answers: somebody waits for us and not for the build
END_SECONDS = 5.0  # that the real kernel gets to end when it is asked to
PARENT_EVERY = 1.0  # seconds between two looks for the parent process


class WaitingKernel:
    """The state of one waiting kernel; `run` is its whole life."""

    def __init__(self, wire: Wire, order: Order, arguments: list[str], base: Mapping[str, str]) -> None:
        self.wire, self.order, self._arguments, self._base = wire, order, arguments, base
        self.stores = Stores.of(order.settings.store, order.settings.search_stores)
        self.queue = Queue()
        self.failure: SepalError | None = None
        self.build: Build | None = None
        self.real: RealKernel | None = None
        self._outdated = ""  # what to say once, when an older environment runs meanwhile
        self._fraction = 0.0
        self._screen = Screen(wire)
        self._began = time.time()
        self._interrupted = False
        self._stopped = False
        self._handed_over = False
        self._parent = Parent(base)
        self._poller = zmq.Poller()
        self._partners: dict[zmq.Socket[bytes], zmq.Socket[bytes]] = {}  # while frames are passed on by hand
        self._looked = 0.0
        self._progress: Progress | None = None
        self._told: Phase | None = None
        self._freed = os.pipe()  # wakes us when nobody holds the build's lock any more

    # ------------------------------------------------------------------------------------------------- the life

    def run(self) -> int:
        """Wait, hand over, and relay until the real kernel ends; returns the exit code (negative: a signal)."""
        self._catch_signals()
        self.wire.status("starting")
        self._look_for_environment()
        for socket in (self.wire.shell, self.wire.control, self.wire.stdin, self.wire.iopub, self._freed[0]):
            self._poller.register(socket, zmq.POLLIN)
        while not self._stopped and not self._handed_over:
            for socket, _ in self._poller.poll(self._tick_every):
                if self._handed_over:  # by the message before this one: the sockets are not ours any more
                    break
                if socket == self._freed[0]:
                    os.read(self._freed[0], 1)
                    self._looked = 0.0
                elif socket in self._partners:
                    self._pass(socket)
                elif self.real is None or socket not in (self.real.shell, self.real.iopub):
                    self._receive(socket)
            if not self._handed_over:
                self._tick()
        if self._stopped:
            return self._end()
        assert self.real is not None
        return self._relay(self.real)

    def _tick(self) -> None:
        """What happens between messages. Errors of the build become the kernel's answer; nothing ends the loop."""
        if self._parent.gone():
            self._stopped = True
            return
        if self._interrupted:
            self._interrupted = False
            self._interrupt()
        try:
            if self.real is not None:
                if self._partners:
                    if self.real.process.poll() is not None:
                        self._leave_to_zmq(self.real)  # what it said last is passed on, too
                elif self.real.step():
                    self._hand_over(self.real)
                    return
            elif self.build is not None and self.failure is None and time.monotonic() - self._looked > LOOK_EVERY:
                generation = self._look(self.build)
                if generation is not None:
                    self._start(generation)
        except SepalError as error:
            self._fail(error)
        except OSError as error:
            self._fail(BuildError(f"The kernel can't be started: {error}"))
        if cells := self.queue.cells():
            self._screen.draw(cells, self._view())

    def _look(self, build: Build) -> Generation | None:
        """Look at the build once, and remember how far it is: between two looks no file is read."""
        self._looked = time.monotonic()
        generation = build.step()
        self._progress = build.progress
        self._tell(build)
        return generation

    @property
    def _tick_every(self) -> int:
        """Milliseconds. Messages wake us, the real kernel's first answer too: ticks are for what no message tells."""
        return SHORT_TICK if self.real is not None and self.real.answered else TICK

    def _look_for_environment(self) -> None:
        """Find or ask for the prefix; an older one starts meanwhile where the settings say so."""
        name, settings = self.order.name, self.order.settings
        try:
            if ready := ready_generation(self.stores, name):
                self._start(ready)
                return
            older = self.stores.observe(self.stores.find(name)[1]).older
            use_older = older is not None and settings.when_outdated == "start"
            if not self.order.may_build:
                if older is None:
                    raise BuildError(f"The environment of {name} is gone, and an automatic restart never builds one.")
                self._start(older)
                return
            try:
                found = request_build(self.stores, name, settings, remember_failures=True)
            except SepalError as error:
                if not use_older:
                    raise
                self._outdated = f"This is an older version of the environment: {error.message}"
                found = None
            if isinstance(found, Generation):  # finished between two looks
                self._start(found)
                return
            if found is not None:
                self.build = found
                self._look(found)
            if use_older and older is not None:
                self._outdated = self._outdated or "building"
                self._start(older)
        except SepalError as error:
            self._fail(error)

    def _tell(self, build: Build) -> None:
        """A line for each phase on standard error: a server's log, or the terminal of `jupyter execute`."""
        if self._progress is not None and self._progress.phase is not self._told:
            self._told = self._progress.phase
            say(f"{self.order.name}: {self._progress.sentence()}")
            if self._told is Phase.VERIFY:
                # Its end is what everybody waits for. To look for it often would cost forty of us a processor.
                build.when_free(lambda: os.write(self._freed[1], b"."))

    def _start(self, generation: Generation) -> None:
        """Start the real kernel; held requests go on waiting until it answers."""
        launch = prepare(generation, self.order.name, self._base, self.order.settings)
        try:
            self.real = RealKernel(launch, self._arguments, self.wire, Path.cwd())
        finally:
            launch.close()
        for socket in (self.real.shell, self.real.iopub):
            self._poller.register(socket, zmq.POLLIN)  # its first answer wakes us

    def _give_up(self) -> None:
        """End a real kernel that does not answer, or that nobody needs any more."""
        if self.real is not None:
            for _, back in self.real.pairs():
                with contextlib.suppress(KeyError):
                    self._poller.unregister(back)
            self.real.discard()
            self.real = None

    def _hand_over(self, real: RealKernel) -> None:
        """Clear what was shown, replay what was held, and pass everything on from here."""
        cells = self.queue.cells()
        for cell in cells:
            self._screen.clear(cell)
        visible = [cell.header for cell in cells if cell.visible]
        if self._outdated and visible:
            self._remark(visible[0])
        requests = self.queue.requests
        self.queue = Queue()
        real.replay(
            [held.frames for held in requests if not held.on_control],
            [held.frames for held in requests if held.on_control],
        )
        if self._outdated:  # the remark waits for a cell that shows something: until then we look at each request
            pairs = real.pairs()
            self._partners = {**dict(pairs), **{back: front for front, back in pairs}}
            for _, back in pairs:
                self._poller.register(back, zmq.POLLIN)
            return
        self._leave_to_zmq(real)

    def _leave_to_zmq(self, real: RealKernel) -> None:
        """From here on nobody looks at a message; the sockets belong to the relay, which closes them at its end."""
        self._partners = {}
        self._handed_over = True
        real.relay()

    def _pass(self, socket: zmq.Socket[bytes]) -> None:
        """Pass one message on by hand. The first cell that shows something gets its remark; after that nobody needs to
        look any more."""
        frames = socket.recv_multipart()
        read = self.wire.read(list(frames)) if socket is self.wire.shell else None
        first = read is not None and is_visible(read[1])
        if first and read is not None:
            self._remark(read[1]["header"])
        self._partners[socket].send_multipart(frames)
        if first and self.real is not None:
            self._leave_to_zmq(self.real)

    def _relay(self, real: RealKernel) -> int:
        """Until the real kernel ends, or whoever started us does."""
        asked = 0.0
        while (code := real.process.poll()) is None:
            if asked and time.monotonic() - asked > END_SECONDS:
                real.process.kill()
            elif not asked and (self._stopped or self._parent.gone()):
                asked = time.monotonic()
                real.process.terminate()
            time.sleep(TICK / 1000)
        real.settle()
        real.remove()
        return code

    def _end(self) -> int:
        self._give_up()
        self.wire.close()
        return 0

    # ------------------------------------------------------------------------------------------------ messages

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        frames = socket.recv_multipart()
        if socket not in (self.wire.shell, self.wire.control):
            return  # subscriptions; answers to questions that nobody asked
        read = self.wire.read(list(frames))
        if read is None:
            return  # not signed with our key
        identities, message = read
        kind = message["msg_type"]
        answer = _ANSWERS.get(kind)
        if answer is not None:
            self.wire.status("busy", message["header"])
            answer(self, socket, identities, message)
            self.wire.status("idle", message["header"])
            # JupyterLab shows no state that follows from these requests: one without a parent it does.
            self.wire.status("busy" if self.queue.cells() else "idle")
        else:
            held = Held(frames, identities, message["header"], kind, socket is self.wire.control)
            held.visible = is_visible(message)
            self._hold(held)

    def _kernel_info(self, socket: zmq.Socket[bytes], identities: list[bytes], message: dict[str, Any]) -> None:
        content = {
            "status": "ok",
            "protocol_version": "5.3",
            "implementation": "ipython",
            "implementation_version": "",
            "language_info": {
                "name": "python",
                "version": "3",
                "mimetype": "text/x-python",
                "codemirror_mode": {"name": "ipython", "version": 3},
                "pygments_lexer": "ipython3",
                "nbconvert_exporter": "python",
                "file_extension": ".py",
            },
            "banner": f"{self.order.display_name}: the environment is being prepared.",
            "help_links": [],
            "debugger": True,
            "supported_features": ["debugger"],
        }
        self.wire.reply(socket, "kernel_info_reply", content, message, identities)

    def _comm_info(self, socket: zmq.Socket[bytes], identities: list[bytes], message: dict[str, Any]) -> None:
        self.wire.reply(socket, "comm_info_reply", {"status": "ok", "comms": {}}, message, identities)

    def _interrupt_request(self, socket: zmq.Socket[bytes], identities: list[bytes], message: dict[str, Any]) -> None:
        self._interrupt()
        self.wire.reply(socket, "interrupt_reply", {"status": "ok"}, message, identities)

    def _shutdown(self, socket: zmq.Socket[bytes], identities: list[bytes], message: dict[str, Any]) -> None:
        content = {"status": "ok", "restart": bool(message["content"].get("restart", False))}
        self.wire.reply(socket, "shutdown_reply", content, message, identities)
        self.wire.publish("shutdown_reply", content, message["header"])
        self._stopped = True

    def _hold(self, held: Held) -> None:
        if self.failure is not None and not (held.kind == "execute_request" and self._is_there_now()):
            self._answer_failed(held, self.failure)
            return
        if self.queue.full_with(held):
            limit = f"{HELD_LIMIT} requests or {HELD_BYTES // 1_000_000} MB"
            error = BuildError(f"More than {limit} wait for the environment already; wait for it and run this again.")
            self._answer_error(held, error.code, error.message, error.message)
            return
        if held.kind == "execute_request":
            self.wire.status("busy", held.header)
            sessions = {cell.header.get("session") for cell in self.queue.cells() if cell.first}
            held.first = held.visible and held.header.get("session") not in sessions
        self.queue.requests.append(held)
        if held.visible and self.real is None:
            self._screen.show(held, self._view(), len([cell for cell in self.queue.cells() if cell.visible]))

    def _is_there_now(self) -> bool:
        """After a failure: somebody may have built it meanwhile."""
        try:
            ready = ready_generation(self.stores, self.order.name)
            if ready is None:
                return False
            self._start(ready)
        except (SepalError, OSError):
            return False
        self.failure = None
        return True

    def _interrupt(self) -> None:
        """Answer the held cells; the build goes on."""
        for cell in self.queue.take_cells():
            self._screen.clear(cell)
            text = "KeyboardInterrupt: the cell no longer waits. The build of its environment goes on."
            self._answer_error(cell, "KeyboardInterrupt", "", text)

    def _fail(self, error: SepalError) -> None:
        self.failure = error
        say(f"{self.order.name}: {error.message}")
        self._give_up()
        for cell in self.queue.take_cells():
            self._screen.clear(cell)
            self._answer_failed(cell, error)
        for held in self.queue.requests:
            self._answer_failed(held, error)
        self.queue = Queue()

    def _answer_failed(self, held: Held, error: SepalError) -> None:
        text = display.failure_text(self.order.display_name, error, self._log(), self.order.name)
        self._answer_error(held, error.code, error.message, text)

    def _log(self) -> str:
        """Where the log of the build that failed is, be it this start's or an earlier one's."""
        if self.build is not None:
            return str(self.build.log)
        with contextlib.suppress(SepalError):
            _, kernel = self.stores.find(self.order.name)
            path = str(self.stores.own.beside(kernel.name, kernel.fingerprint, "log"))
            return path if os.path.isfile(path) else ""
        return ""

    def _answer_error(self, held: Held, name: str, value: str, text: str) -> None:
        """An error reply, and for a cell the same as its output: text for a person, no stack."""
        socket = self.wire.control if held.on_control else self.wire.shell
        content = {"ename": name, "evalue": value, "traceback": [text]}
        reply = {"status": "error", "execution_count": 0, **content}
        self.wire.status("busy", held.header)
        if held.kind == "execute_request":
            self.wire.publish("error", content, held.header)
        kind = held.kind.removesuffix("_request") + "_reply"
        if held.kind.endswith("_request"):
            self.wire.reply(socket, kind, reply, held.header, held.identities)
        self.wire.status("idle", held.header)

    # ------------------------------------------------------------------------------------------------- display

    def _view(self) -> display.View:
        if self._progress is not None:
            self._fraction = max(self._fraction, self._progress.fraction)
        if self.real is not None:
            self._fraction = 1.0
        own = self.build is None or self.build.ours
        return display.View(
            self.order.display_name, self._progress, self._began, own, self._fraction, starting=self.real is not None
        )

    def _remark(self, cell: dict[str, Any]) -> None:
        """Tell once, above the output of the cell with this header, that an older environment runs."""
        sentence, self._outdated = self._outdated, ""
        if sentence == "building":
            sentence = "An older version of the environment runs. A newer one is being built: restart the kernel later."
            try:
                if self.build is not None and self.build.step() is not None:
                    sentence = "A newer version of the environment is ready: restart the kernel to use it."
            except SepalError as error:
                sentence = f"This is an older version of the environment; the newer one failed: {error.message}"
        self._screen.remark(cell, sentence)

    # ------------------------------------------------------------------------------------------------- signals

    def _catch_signals(self) -> None:
        """An interrupt is for the cells; the end is for the real kernel too. Handlers, not SIG_IGN: a child inherits
        what is ignored."""

        def on_interrupt(signum: int, frame: Any) -> None:
            self._interrupted = True  # once there is a real kernel, it got the same signal from our group

        def on_end(signum: int, frame: Any) -> None:
            self._stopped = True

        signal.signal(signal.SIGINT, on_interrupt)
        signal.signal(signal.SIGTERM, on_end)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            signal.signal(number, lambda signum, frame: None)


_ANSWERS = {
    "kernel_info_request": WaitingKernel._kernel_info,
    "comm_info_request": WaitingKernel._comm_info,
    "interrupt_request": WaitingKernel._interrupt_request,
    "shutdown_request": WaitingKernel._shutdown,
}


class Parent:
    """The process that started us, which we do not outlive. Started with `independent`, there is none."""

    def __init__(self, base: Mapping[str, str]) -> None:
        named = base.get("JPY_PARENT_PID", "")
        self._pid = int(named) if named.isdigit() else 0
        self._looked = 0.0

    def gone(self) -> bool:
        """Whether it ended. Looks once a second."""
        now = time.monotonic()
        if not self._pid or now - self._looked < PARENT_EVERY:
            return False
        self._looked = now
        return os.getppid() != self._pid


def serve(order: Order, arguments: list[str], base: Mapping[str, str]) -> int:
    """Be the kernel of the connection file in `arguments` (`-f FILE` and what else its client passes)."""
    rest = list(arguments)
    try:
        at = rest.index("-f")
        connection = read_connection(Path(rest[at + 1]))
    except (ValueError, IndexError):
        raise SettingsError("The kernel's command line names no connection file (-f FILE).") from None
    del rest[at : at + 2]
    return WaitingKernel(Wire(connection), order, rest, base).run()


def say(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write(f"[sepal] {text}\n")
    sys.stderr.flush()


def end_like(code: int) -> NoReturn:
    """End this process as another one ended: with its exit code, or by its signal."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def main(arguments: list[str]) -> NoReturn:
    """The edge of this process."""
    base = dict(os.environ)
    try:
        code = serve(Order.from_variable(base.pop(VARIABLE, None)), arguments, base)
    except SepalError as error:
        say(str(error))
        code = error.exit_code
    end_like(code)


if __name__ == "__main__":
    main(sys.argv[1:])
