"""`/sepal/api`: who may ask, what is asked, and the one place where an error becomes an HTTP answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor
from functools import cache
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado.web import HTTPError, authenticated

from ..errors import SepalError, SettingsError
from .actions import LOG_DEFAULT, LOG_LIMIT
from .documents import kernel_view, progress_view
from .holders import Holders
from .statuses import answer_of, status_of

if TYPE_CHECKING:
    from .app import Service

RESOURCE = "sepal"
OPENAPI = Path(__file__).with_name("openapi.yaml")
BODY_LIMIT = 1_000_000  # bytes
NOT_OURS = (
    "This server lists kernels with another kernel spec manager, so there is nothing to show. Set "
    'c.ServerApp.kernel_spec_manager_class = "sepal_provisioner.SepalKernelSpecManager" and start it again.'
)


class SepalHandler(APIHandler):
    """What every handler shares."""

    auth_resource = RESOURCE

    @property
    def service(self) -> Service:
        """What the extension works with. Raises SettingsError where our kernel spec manager isn't in use."""
        found: Service | None = self.settings.get("sepal_service")
        if found is None:
            raise SettingsError(NOT_OURS)
        return found

    async def answer(
        self, function: Callable[[Service], Any], *, executor: Executor | None = None, status: int = 200
    ) -> None:
        """Send what `function` returns, which runs in a thread, or the error that it ends with."""
        try:
            service = self.service
            document = await asyncio.get_running_loop().run_in_executor(executor, function, service)
        except SepalError as error:
            self.set_status(status_of(error))
            document = answer_of(error)
        else:
            self.set_status(status)
        self.finish(json.dumps(document, ensure_ascii=False))

    async def act(self, function: Callable[[Service], Any], *, status: int = 200) -> None:
        """The same for what changes something: in threads of its own, and everybody who looks on is told soon."""
        service = self.settings.get("sepal_service")
        await self.answer(function, executor=service.threads if service else None, status=status)
        if service:
            service.watch.poke()

    async def allows(self, action: str) -> bool:
        """Whether the server's authorizer lets this user do it."""
        return bool(
            await ensure_async(self.authorizer.is_authorized(self, self.current_user, action, self.auth_resource))
        )

    def body(self, **types: type) -> dict[str, Any]:
        """The request's JSON object: no other keys than these, each of its type; an empty body is an empty object."""
        data = self.request.body.strip()
        if len(data) > BODY_LIMIT:
            raise HTTPError(413)
        try:
            document = json.loads(data) if data else {}
        except (ValueError, RecursionError):
            raise HTTPError(400, "The body is not JSON.") from None
        if not isinstance(document, dict):
            raise HTTPError(400, "The body must be a JSON object.")
        for name, value in document.items():
            if name not in types:
                raise HTTPError(400, f"Unknown key in the body; known are: {', '.join(types) or 'none'}.")
            if not isinstance(value, types[name]):
                raise HTTPError(400, f"{name} must be of type {types[name].__name__}.")
        return document

    def number(self, name: str, least: int, most: int) -> int | None:
        """A whole number of the query, None when it isn't there."""
        text = self.get_query_argument(name, "")
        if not text and name not in self.request.query_arguments:
            return None
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 17 and least <= int(text) <= most):
            raise HTTPError(400, f"{name} must be a whole number from {least} to {most}.")
        return int(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Every other error in the same form. Called by tornado."""
        error = kwargs.get("exc_info", (None, None))[1]
        message = (getattr(error, "log_message", None) or responses.get(status_code, "")) if error else ""
        document = {"code": f"http-{status_code}", "message": message or "Error", "detail": ""}
        self.finish(json.dumps({"error": document}))


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
