"""The dashboard at `/sepal`: one table, rendered here; a script keeps it up to date and does what buttons say."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timezone
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.extension.handler import ExtensionHandlerJinjaMixin, ExtensionHandlerMixin
from tornado.web import authenticated

from ..files import human_size
from ..store import State
from .documents import kernel_view
from .handler import RESOURCE
from .holders import Holders
from .languages import LANGUAGES, choose, words


class PageHandler(ExtensionHandlerJinjaMixin, ExtensionHandlerMixin, JupyterHandler):
    """The page. Who may not change anything gets no buttons for it."""

    auth_resource = RESOURCE
    template = "dashboard.html"

    @property
    def content_security_policy(self) -> str:
        """Nothing but our own files, and no script in the page. Called for every answer."""
        own = "; ".join(f"{kind}-src 'self'" for kind in ("script", "style", "connect", "img"))
        return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"

    @authenticated
    @authorized
    async def get(self) -> None:
        """Render the table as of now."""
        asked = self.get_query_argument("lang", "")
        language = choose(asked, self.request.headers.get("Accept-Language", ""))
        service = self.settings.get("sepal_service")
        name = self.get_query_argument("name", "")
        may = {action: await self._allows(action) for action in ("execute", "write")}
        document: dict[str, Any] = {"store": "", "writable": False, "kernels": [], "sync": None}
        if service is not None:
            document = await asyncio.get_running_loop().run_in_executor(None, _document, service, name)
        texts = words(language)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Vary", "Accept-Language")
        self.finish(
            self.render_template(
                self.template,
                **document,
                language=language,
                languages=LANGUAGES,
                configured=service is not None,
                may={action: allowed and document["writable"] for action, allowed in may.items()},
                t=lambda key, **values: texts[key].format(**values),
                texts=json.dumps({key.removeprefix("js."): text for key, text in texts.items() if _for_script(key)}),
                states=[state.value for state in State],
                human_size=human_size,
                moment=_moment,
                static=self.extensionapp.static_url_prefix.rstrip("/"),
                xsrf=self.xsrf_token.decode(),
            )
        )

    async def _allows(self, action: str) -> bool:
        user = self.current_user
        return bool(await ensure_async(self.authorizer.is_authorized(self, user, action, self.auth_resource)))


class RowsHandler(PageHandler):
    """The table's rows alone, or with `?name=` one of them: what the script puts in the place of older ones."""

    template = "rows.html"


def _document(service: Any, name: str) -> dict[str, Any]:
    holders, writable = Holders(), service.stores.own.writable()
    views = service.views.look()
    shown = [view for view in views.values() if not name or view.kernel.name == name]
    return {
        "store": str(service.stores.own.root),
        "writable": writable,
        "sync": service.actions.sync_state(),
        "kernels": [kernel_view(view, service.settings, holders, writable=writable) for view in shown],
    }


def _for_script(key: str) -> bool:
    return key.startswith(("js.", "phase.", "state.", "kind."))


def _moment(seconds: float) -> dict[str, str]:
    """A time for machines and, without a script, for people."""
    try:
        when = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return {"machine": "", "text": "?"}
    return {"machine": when.isoformat(timespec="seconds"), "text": f"{when:%Y-%m-%d %H:%M}"}


PAGES: list[tuple[str, type[PageHandler]]] = [(r"/sepal/?", PageHandler), (r"/sepal/rows", RowsHandler)]
