"""`/sepal/api`: what can be asked for, a class for each address."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jupyter_server.auth.decorator import authorized
from tornado.web import HTTPError, authenticated

from .actions import LOG_DEFAULT, LOG_LIMIT
from .documents import kernel_view, progress_view
from .handler import SepalHandler
from .holders import Holders

if TYPE_CHECKING:
    from .app import Service

OPENAPI = Path(__file__).with_name("openapi.yaml")


class KernelsHandler(SepalHandler):
    """Every kernel, whether this user may change anything, and how the last sync went."""

    @authenticated
    @authorized
    async def get(self) -> None:
        """All kernels."""
        may = {"execute": await self.allows("execute"), "write": await self.allows("write")}

        def listing(service: Service) -> dict[str, Any]:
            holders, writable = Holders(), service.stores.own.writable()
            return {
                "store": str(service.stores.own.root),
                "writable": writable,
                "may": may,
                "sync": service.actions.sync_state(),
                "kernels": [
                    kernel_view(view, service.settings, holders, writable=writable)
                    for view in service.views.look().values()
                ],
            }

        await self.answer(listing)


class KernelHandler(SepalHandler):
    """One kernel."""

    @authenticated
    @authorized
    async def get(self, name: str) -> None:
        """All that is known of it."""
        await self.answer(
            lambda service: kernel_view(
                service.views.find(name), service.settings, Holders(), writable=service.stores.own.writable()
            )
        )


class ProgressHandler(SepalHandler):
    """How far the running or last build of a kernel is."""

    @authenticated
    @authorized
    async def get(self, name: str) -> None:
        """Its progress; null when it was never built."""

        def progress(service: Service) -> dict[str, Any]:
            view = service.views.find(name)
            shown = {"name": view.kernel.name, "state": view.environment.state.value, "building": view.building}
            return {**shown, "progress": progress_view(view.progress)}

        await self.answer(progress)


class LogHandler(SepalHandler):
    """The log of the running or last build."""

    @authenticated
    @authorized
    async def get(self, name: str) -> None:
        """A piece of it."""
        offset = self.number("offset", 0, 10**15)
        limit = self.number("limit", 1, LOG_LIMIT) or LOG_DEFAULT
        await self.answer(lambda service: service.actions.log(name, offset, limit))


class BuildHandler(SepalHandler):
    """Start a build."""

    @authenticated
    @authorized(action="execute")
    async def post(self, name: str) -> None:
        """Build, or join the build that runs; with `force` anew although it is ready."""
        force = self.body(force=bool).get("force", False)
        await self.act(lambda service: service.actions.build(name, force=force), status=202)


class CancelHandler(SepalHandler):
    """Stop a build."""

    @authenticated
    @authorized(action="execute")
    async def post(self, name: str) -> None:
        """Stop it and remove what it had made."""
        self.body()
        await self.act(lambda service: service.actions.cancel(name))


class RollbackHandler(SepalHandler):
    """Use another version."""

    @authenticated
    @authorized(action="write")
    async def post(self, name: str) -> None:
        """Use the version before; with `undo` the newest again."""
        undo = self.body(undo=bool).get("undo", False)
        await self.act(lambda service: service.actions.rollback(name, undo=undo))


class PruneHandler(SepalHandler):
    """What is no longer needed."""

    @authenticated
    @authorized
    async def get(self) -> None:
        """The plan."""
        service = self.settings.get("sepal_service")
        await self.answer(lambda service: service.actions.plan(), executor=service.threads if service else None)

    @authenticated
    @authorized(action="write")
    async def post(self) -> None:
        """Remove what the plan says; with `paths`, of that only these."""
        paths = self.body(paths=list).get("paths")
        if paths is not None and not all(isinstance(path, str) for path in paths):
            raise HTTPError(400, "paths must hold texts.")
        await self.act(lambda service: service.actions.prune(paths))


class SyncHandler(SepalHandler):
    """Read the catalogs again."""

    @authenticated
    @authorized(action="write")
    async def post(self) -> None:
        """Begin a sync; `GET kernels` and the events say when it is over."""
        self.body()
        loop = asyncio.get_running_loop()
        service: Any = self.settings.get("sepal_service")

        def on_end() -> None:
            loop.call_soon_threadsafe(service.broadcast.tell_sync)

        def begin(service: Service) -> dict[str, Any]:
            service.actions.begin_sync()
            service.threads.submit(service.actions.run_sync, on_end)
            return {"started": True}

        await self.act(begin, status=202)
        if service:
            service.broadcast.tell_sync()


class OpenApiHandler(SepalHandler):
    """The description of all this for programs."""

    @authenticated
    @authorized
    async def get(self) -> None:
        """The OpenAPI document, with this server's own address."""
        self.finish(json.dumps({**_openapi(), "servers": [{"url": f"{self.base_url}sepal/api"}]}))


class NothingHandler(SepalHandler):
    """Whatever else is asked for."""

    async def prepare(self) -> None:  # type: ignore[override]
        """Say so, whatever the method."""
        await super().prepare()
        raise HTTPError(404)


@cache
def _openapi() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(OPENAPI.read_text(encoding="utf-8"))
    return document


_NAME = r"/sepal/api/kernels/([^/]+)"
HANDLERS: list[tuple[str, type[SepalHandler]]] = [
    (r"/sepal/api/kernels", KernelsHandler),
    (_NAME, KernelHandler),
    (f"{_NAME}/progress", ProgressHandler),
    (f"{_NAME}/log", LogHandler),
    (f"{_NAME}/build", BuildHandler),
    (f"{_NAME}/cancel", CancelHandler),
    (f"{_NAME}/rollback", RollbackHandler),
    (r"/sepal/api/prune", PruneHandler),
    (r"/sepal/api/sync", SyncHandler),
    (r"/sepal/api/openapi.json", OpenApiHandler),
]
