"""The extension as jupyter_server loads it: what is made once for a server, and its end."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_server.extension.application import ExtensionApp, ExtensionAppJinjaMixin

from ..manager import SepalKernelSpecManager
from ..settings import Sepal
from ..store import Stores
from .actions import Actions
from .announce import Announcer
from .handlers import HANDLERS
from .page import PAGES
from .rows import Rows
from .stream import STREAMS, Broadcast
from .views import Views
from .watch import Watch

FOLDER = Path(__file__).parent
ACTIONS_AT_ONCE = 4  # cancelling waits for the build's end, pruning for the disk: they have threads of their own


@dataclass(frozen=True)
class Service:
    """What every handler works with."""

    settings: Sepal
    stores: Stores
    views: Views
    actions: Actions
    watch: Watch
    broadcast: Broadcast
    rows: Rows
    threads: ThreadPoolExecutor


def spare_what_stays() -> None:
    """Let the garbage collector pass over what the server has loaded by now, which stays until its end. To look through
    it takes a tenth of a second in which every request waits, and lists of hundreds of kernels make it look often."""
    gc.collect()
    gc.freeze()


class SepalExtension(ExtensionAppJinjaMixin, ExtensionApp):
    """The API at `/sepal/api` and the page at `/sepal`. Where another kernel spec manager is in use, both say so."""

    name = "sepal_provisioner"
    extension_url = "/sepal"
    static_paths = [str(FOLDER / "static")]  # noqa: RUF012 - a trait's value, as jupyter_server wants it
    template_paths = [str(FOLDER / "templates")]  # noqa: RUF012 - the same

    _service: Service | None = None

    def initialize_handlers(self) -> None:
        """Add the routes. Called by jupyter_server once its own parts are there."""
        self.handlers.extend([*HANDLERS, *STREAMS, *PAGES])

    def initialize_settings(self) -> None:
        """Make the service, and let it begin when the event loop runs. Called by jupyter_server."""
        service = self._service = self._make()
        self.settings["sepal_service"] = service
        if service is not None:
            assert self.serverapp is not None
            self.serverapp.io_loop.add_callback(service.watch.start)
            self.serverapp.io_loop.add_callback(spare_what_stays)

    async def stop_extension(self) -> None:
        """Let every stream end. Called by jupyter_server when it stops."""
        if (service := self._service) is not None:
            service.broadcast.close()
            await service.watch.stop()
            service.threads.shutdown(wait=False, cancel_futures=True)
            await asyncio.sleep(0)  # the streams' turn

    def _make(self) -> Service | None:
        assert self.serverapp is not None
        manager: Any = self.serverapp.kernel_spec_manager
        if not isinstance(manager, SepalKernelSpecManager):
            self.log.info("sepal: this server's kernel_spec_manager_class is another one; /sepal does nothing")
            return None
        settings: Sepal = manager.settings
        stores = Stores.of(settings.store, settings.search_stores)
        views = Views(stores, manager.allowed_kernelspecs)
        actions = Actions(settings, views)
        announcer = Announcer(self.serverapp.event_logger, stores)

        def before() -> None:
            actions.step()
            announcer.measure()

        watch = Watch(views, before, self.log)
        broadcast = Broadcast(settings, views, watch)
        watch.listen(announcer)
        watch.listen(broadcast.tell)
        threads = ThreadPoolExecutor(ACTIONS_AT_ONCE, thread_name_prefix="sepal-action")
        return Service(settings, stores, views, actions, watch, broadcast, Rows(), threads)
