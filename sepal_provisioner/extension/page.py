"""The dashboard at `/sepal`: one table, rendered here; a script keeps it up to date and does what buttons say."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.extension.handler import ExtensionHandlerJinjaMixin, ExtensionHandlerMixin
from tornado.web import authenticated

from ..store import State
from .documents import kernel_view
from .handler import RESOURCE
from .holders import Holders
from .languages import LANGUAGES, choose, words
from .rows import moment

if TYPE_CHECKING:
    from .app import Service

ACTIONS = ("execute", "write")


class PageHandler(ExtensionHandlerJinjaMixin, ExtensionHandlerMixin, JupyterHandler):
    """The page. Who may not change anything gets no buttons for it."""

    auth_resource = RESOURCE

    @property
    def content_security_policy(self) -> str:
        """Nothing but our own files, and no script in the page. Called for every answer."""
        own = "; ".join(f"{kind}-src 'self'" for kind in ("script", "style", "connect", "img"))
        return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"

    @authenticated
    @authorized
    async def get(self) -> None:
        """Render the table as of now."""
        language = choose(self.get_query_argument("lang", ""), self.request.headers.get("Accept-Language", ""))
        service: Service | None = self.settings.get("sepal_service")
        shown: dict[str, Any] = {"may": dict.fromkeys(ACTIONS, False), "rows": "", "sync": None, "store": ""}
        if service is not None:
            allowed = {action: await self._allows(action) for action in ACTIONS}
            loop = asyncio.get_running_loop()
            shown = await loop.run_in_executor(None, self._look, service, language, allowed)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Vary", "Accept-Language")
        self.finish(self.page(language, shown, configured=service is not None))

    def page(self, language: str, shown: dict[str, Any], *, configured: bool) -> str:
        """The whole document around the rows."""
        texts = words(language)
        text: str = self.render_template(
            "dashboard.html",
            **shown,
            language=language,
            languages=LANGUAGES,
            configured=configured,
            t=lambda key, **values: texts[key].format(**values),
            texts=json.dumps({key.removeprefix("js."): text for key, text in texts.items() if _for_script(key)}),
            states=[state.value for state in State],
            moment=moment,
            static=self.extensionapp.static_url_prefix.rstrip("/"),
            xsrf=self.xsrf_token.decode(),
        )
        return text

    def _look(self, service: Service, language: str, allowed: dict[str, bool]) -> dict[str, Any]:
        """What there is to show. Runs in a thread."""
        name = self.get_query_argument("name", "")
        holders, writable = Holders(), service.stores.own.writable()
        may = {action: allowed[action] and writable for action in ACTIONS}
        kernels = [
            kernel_view(view, service.settings, holders, writable=writable)
            for view in service.views.look().values()
            if not name or view.kernel.name == name
        ]
        rows = service.rows.render(self.get_template("row.html"), kernels, language, **may)
        return {"may": may, "rows": rows, "sync": service.actions.sync_state(), "store": str(service.stores.own.root)}

    async def _allows(self, action: str) -> bool:
        user = self.current_user
        return bool(await ensure_async(self.authorizer.is_authorized(self, user, action, self.auth_resource)))


class RowsHandler(PageHandler):
    """The table's rows alone, or with `?name=` one of them: what the script puts in the place of older ones."""

    def page(self, language: str, shown: dict[str, Any], *, configured: bool) -> str:
        """Nothing around the rows."""
        return str(shown["rows"])


def _for_script(key: str) -> bool:
    return key.startswith(("js.", "phase.", "state.", "kind."))


PAGES: list[tuple[str, type[PageHandler]]] = [(r"/sepal/?", PageHandler), (r"/sepal/rows", RowsHandler)]
