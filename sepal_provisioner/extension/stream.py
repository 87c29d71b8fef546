"""`/sepal/api/events`: server-sent events for any number of browsers, from the one watch."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, authenticated

from ..errors import SepalError
from ..settings import Sepal
from .documents import kernel_view, progress_view
from .handler import SepalHandler
from .handlers import NothingHandler
from .holders import Holders
from .statuses import answer_of, status_of
from .views import View, Views
from .watch import Change, Watch

HEARTBEAT = 15.0  # seconds: proxies end what is silent for a minute
CLIENTS, WAITING = 200, 1_000  # browsers, and messages that one of them may be behind

Queue = asyncio.Queue[str | None]  # None is the end


class Broadcast:
    """Those who look on, and what they are told."""

    def __init__(self, settings: Sepal, views: Views, watch: Watch) -> None:
        self._settings, self._views, self._watch = settings, views, watch
        self._queues: set[Queue] = set()
        self._tasks: set[asyncio.Future[None]] = set()

    def join(self) -> Queue:
        """A queue of texts to send. Raises HTTPError when there are too many already."""
        if len(self._queues) >= CLIENTS:
            raise HTTPError(503, "Too many clients listen to events.")
        queue: Queue = asyncio.Queue()
        self._queues.add(queue)
        self._count()
        return queue

    def leave(self, queue: Queue) -> None:
        """Somebody is gone."""
        self._queues.discard(queue)
        self._count()

    def close(self) -> None:
        """End every stream."""
        for queue in self._queues:
            queue.put_nowait(None)

    def tell(self, changes: list[Change], views: dict[str, View]) -> None:
        """Pass on what one look saw. Called on the event loop."""
        if self._queues and changes:
            task = asyncio.ensure_future(self._tell(changes))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def tell_sync(self) -> None:
        """A sync began or ended: look at the kernels again."""
        self._send("sync", {})
        self._watch.poke()

    async def _tell(self, changes: list[Change]) -> None:
        messages = await asyncio.get_running_loop().run_in_executor(None, self._messages, changes)
        for event, document in messages:
            self._send(event, document)

    def _messages(self, changes: list[Change]) -> list[tuple[str, dict[str, Any]]]:
        """What to say about changes: a kernel's whole document when it is another one, else how far its build is."""
        holders, writable = Holders(), self._views.stores.own.writable()
        said: list[tuple[str, dict[str, Any]]] = []
        whole = {change.name: change.view for change in changes if change.kind in ("kernel", "started", "ended")}
        current = self._views.look()
        for name, view in whole.items():
            document = kernel_view(current.get(name, view), self._settings, holders, writable=writable)
            said.append(("kernel", document))
        for change in changes:
            if change.kind == "removed":
                said.append(("removed", {"name": change.name}))
            elif change.kind == "progressed":
                said.append(("progress", {"name": change.name, "progress": progress_view(change.progress)}))
        return said

    def _send(self, event: str, document: dict[str, Any]) -> None:
        text = f"event: {event}\ndata: {json.dumps(document)}\n\n"
        for queue in list(self._queues):
            # Whoever is that far behind is better off with a new stream and all kernels anew.
            queue.put_nowait(text if queue.qsize() < WAITING else None)

    def _count(self) -> None:
        self._watch.attended = len(self._queues)


class EventsHandler(SepalHandler):
    """One browser that looks on. It doesn't count as activity: a forgotten tab keeps no server alive."""

    _track_activity = False
    _queue: Queue | None = None

    @authenticated
    @authorized
    async def get(self) -> None:
        """Send events until somebody goes: `kernel`, `progress`, `removed`, `sync`."""
        try:
            broadcast = self.service.broadcast
        except SepalError as error:
            self.set_status(status_of(error))
            self.finish(json.dumps(answer_of(error)))
            return
        queue = self._queue = broadcast.join()
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")  # nginx would hold back what is small
        text: str | None = "retry: 3000\n\n"
        try:
            while text is not None:
                self.write(text)
                await self.flush()
                try:
                    text = await asyncio.wait_for(queue.get(), HEARTBEAT)
                except asyncio.TimeoutError:
                    text = ": still here\n\n"
        except StreamClosedError:
            pass
        finally:
            broadcast.leave(queue)

    def on_connection_close(self) -> None:
        """The browser is gone. Called by tornado."""
        if self._queue is not None:
            self._queue.put_nowait(None)
        super().on_connection_close()


STREAMS: list[tuple[str, type[SepalHandler]]] = [
    (r"/sepal/api/events", EventsHandler),
    (r"/sepal/api(?:/.*)?", NothingHandler),
]
