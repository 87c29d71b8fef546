"""What every handler of `/sepal/api` shares: who may ask, and the one place where an error becomes an HTTP answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor
from http.client import responses
from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async
from jupyter_server.base.handlers import APIHandler
from tornado.web import HTTPError

from ..errors import SepalError, SettingsError
from .statuses import answer_of, status_of

if TYPE_CHECKING:
    from .app import Service

RESOURCE = "sepal"
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
