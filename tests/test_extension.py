"""The server extension, in a real server: its API, who may use it, its streams, Jupyter's events, and its metrics."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import websocket
from conftest import Site, mirrors
from server import PATIENCE, TOKEN, JupyterServer, hear
from waits import until

from sepal_provisioner import locks
from sepal_provisioner.errors import every_error
from sepal_provisioner.extension.documents import kernel_view
from sepal_provisioner.extension.holders import Holders
from sepal_provisioner.extension.rows import Rows
from sepal_provisioner.extension.statuses import STATUSES, status_of
from sepal_provisioner.extension.views import Views
from sepal_provisioner.extension.watch import Comparison
from sepal_provisioner.progress import Phase, Reporter

ROOT = Path(__file__).resolve().parents[1]
EXTENSION = {"ServerApp.jpserver_extensions": {"sepal_provisioner.extension": True}, "Sepal.refresh_interval": 0}
SMALL = "channels: [conda-forge]\ndependencies: [python, sepal-demo{}]\n"
SCHEMA = "https://sepal-provisioner.readthedocs.io/events/build/v1"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, channel: Path) -> Site:
    """A site with a kernel that is built, one that is not, and one that can't be."""
    site = Site(tmp_path_factory.mktemp("extension"), mirrors(channel))
    site.add("ready", {"sepal_environment.yml": SMALL.format("")}, label="Prêt")
    site.add("unbuilt", {"sepal_environment.yml": SMALL.format("=1.*")})
    site.add("broken", {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python, broken-dep]\n"})
    site.sync()
    site.build("venv-ready")
    return site


@pytest.fixture(scope="module")
def server(shared: Site) -> Iterator[JupyterServer]:
    """One server with the extension."""
    with JupyterServer(shared.config(**EXTENSION)) as running:
        yield running


def post(server: JupyterServer, path: str, **body: Any) -> tuple[int, Any]:
    """POST to the API."""
    return server.request("POST", f"/sepal/api/{path}", body)


def kernel(server: JupyterServer, name: str) -> dict[str, Any]:
    """What the API says of a kernel."""
    return server.get(f"/sepal/api/kernels/{name}")


@contextlib.contextmanager
def stream(server: JupyterServer) -> Iterator[http.client.HTTPResponse]:
    """The events, as a browser gets them."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("GET", "/sepal/api/events", headers={"Authorization": f"token {TOKEN}"})
    response = connection.getresponse()
    assert response.status == 200 and response.headers["Content-Type"] == "text/event-stream"
    try:
        yield response
    finally:
        connection.close()


def next_event(response: http.client.HTTPResponse) -> tuple[str, Any]:
    """(name, data) of the next event."""
    event = ""
    while line := response.readline().decode():
        if line.startswith("event: "):
            event = line[7:].strip()
        elif line.startswith("data: "):
            return event, json.loads(line[6:])
    raise AssertionError("the stream ended")


# ------------------------------------------------------------------------------------------------------- reading


def test_the_list_tells_what_a_dashboard_needs(server: JupyterServer, shared: Site) -> None:
    """Every kernel with its state, size, commit, builds and uses; whether anything may be changed; the last sync."""
    document = server.get("/sepal/api/kernels")
    assert document["writable"] and document["may"] == {"execute": True, "write": True}
    assert document["sync"]["synced"] and not document["sync"]["running"]
    names = [entry["name"] for entry in document["kernels"]]
    assert names == ["venv-ready", "venv-unbuilt", "venv-broken"]
    ready = document["kernels"][0]
    assert (ready["state"], ready["display_name"], ready["rolled_back"]) == ("ready", "(venv) Prêt", False)
    assert ready["commit"] == shared.stores.find("venv-ready")[1].commit == ready["build"]["commit"]
    assert ready["size"] == ready["build"]["size"] > 1_000_000 and ready["build"]["durations"]["solve"] >= 0
    assert ready["running"] == 0 and ready["failure"] is None and ready["progress"] is None
    assert kernel(server, "READY") == ready
    assert kernel(server, "venv-unbuilt")["state"] == "missing"


def test_running_kernels_are_counted(server: JupyterServer) -> None:
    """Two kernels of an environment are two users of it, or somebody where the system does not tell how many; none is
    left when they end."""
    with server.kernel("venv-ready") as one, server.kernel("venv-ready") as two:
        assert one.run("1").result == two.run("1").result == "1"
        assert kernel(server, "venv-ready")["running"] in (2, None)
    until(lambda: kernel(server, "venv-ready")["running"] == 0, "the kernels to end")


def test_locks_are_counted_by_file(tmp_path: Path) -> None:
    """Shared locks are told apart by the file that they are on; where the table is missing, somebody is somebody."""
    marker, other = tmp_path / "marker", tmp_path / "other"
    for path in (marker, other):
        path.write_text("{}")
    held = [locks.share(marker), locks.share(marker), locks.share(other)]
    assert Holders().running(marker) in (2, None)
    assert Holders(tmp_path / "none").running(marker) is None
    info = marker.stat()
    table = tmp_path / "table"
    place = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    table.write_text(
        f"1: FLOCK  ADVISORY  READ 7 {place} 0 EOF\n2: POSIX  ADVISORY  READ 7 {place} 0 EOF\nnonsense\n"
        f"3: FLOCK  ADVISORY  READ 8 {place} 0 EOF\n4: FLOCK  ADVISORY  READ x 0:0 0 EOF\n"
    )
    assert Holders(table).running(marker) == 2
    for descriptor in held:
        os.close(descriptor)
    assert Holders(tmp_path / "none").running(marker) == 0 == Holders().running(tmp_path / "gone")


def test_a_row_is_rendered_again_only_when_it_shows_something_else(shared: Site) -> None:
    """The same kernel gives the very same row; a change of its state, another language and other rights give their own,
    and what a catalog says is escaped."""
    loader = jinja2.FileSystemLoader(ROOT / "sepal_provisioner" / "extension" / "templates")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("row.html")
    rendered: list[str] = []

    class Counted:
        def render(self, **values: Any) -> str:
            rendered.append(values["kernel"]["name"])
            return template.render(**values)

    rows, views = Rows(), Views(shared.stores)

    def look(language: str = "en", *, write: bool = True, **changes: Any) -> str:
        documents = [kernel_view(v, shared.settings(), Holders(), writable=True) for v in views.look().values()]
        documents[1] |= changes
        return rows.render(Counted(), documents, language, execute=True, write=write)  # type: ignore[arg-type]

    first = look()
    assert rendered == ["venv-ready", "venv-unbuilt", "venv-broken"] and look() == first and len(rendered) == 3
    changed = look(label="<b>Bold</b>")
    assert rendered[3:] == ["venv-unbuilt"] and "&lt;b&gt;Bold" in changed and "<b>Bold" not in changed
    assert look() == first and rendered[4:] == ["venv-unbuilt"]
    assert "Construire" in look("fr") and len(rendered) == 8
    look(write=False)
    assert len(rendered) == 11


def test_a_log_is_read_in_pieces(server: JupyterServer, shared: Site) -> None:
    """The pieces of a log from `offset` on are the log; without an offset it is the end; what can't be is refused."""
    path = next(shared.store.folder("venv-ready").glob("*.log"))
    whole, text, offset = path.read_text(), "", 0
    while True:
        piece = server.get(f"/sepal/api/kernels/venv-ready/log?offset={offset}&limit=700")
        text, offset = text + piece["text"], piece["next"]
        if not piece["text"]:
            break
    assert text == whole
    assert whole.endswith(server.get("/sepal/api/kernels/venv-ready/log?limit=50")["text"])
    for query in ("offset=-1", "offset=x", "limit=0", "limit=1000001", "limit="):
        status, answer = server.request("GET", f"/sepal/api/kernels/venv-ready/log?{query}")
        assert (status, answer["error"]["code"]) == (400, "http-400"), query
    status, answer = server.request("GET", "/sepal/api/kernels/venv-unbuilt/log")
    assert (status, answer["error"]["code"]) == (404, "unknown-kernel")


def test_errors_have_one_form(server: JupyterServer) -> None:
    """Whatever goes wrong, the answer is `{"error": {code, message, detail}}` with a fitting status."""
    cases = [
        ("GET", "kernels/venv-redy", None, 404, "unknown-kernel"),
        ("POST", "kernels/venv-nobody/build", {}, 404, "unknown-kernel"),
        ("POST", "kernels/venv-ready/build", {"force": "yes"}, 400, "http-400"),
        ("POST", "kernels/venv-ready/build", {"other": 1}, 400, "http-400"),
        ("POST", "kernels/venv-ready/build", [], 400, "http-400"),
        ("POST", "kernels/venv-ready/rollback", {}, 404, "unknown-kernel"),
        ("POST", "prune", {"paths": [1]}, 400, "http-400"),
        ("DELETE", "kernels", None, 405, "http-405"),
        ("GET", "nothing/like/this", None, 404, "http-404"),
    ]
    for method, path, body, status, code in cases:
        got, answer = server.request(method, f"/sepal/api/{path}", body)
        assert (got, answer["error"]["code"]) == (status, code), (method, path, answer)
        assert set(answer["error"]) == {"code", "message", "detail"} and answer["error"]["message"]


def test_every_error_has_a_status() -> None:
    """No class of error is left without one, and only what nobody foresaw is a fault of the server."""
    assert {status_of(kind("x")) for kind in every_error().values()} <= {403, 404, 409, 422, 500, 502, 503, 507}
    assert [kind.code for kind, status in STATUSES.items() if status == 500] == ["error"]


# ------------------------------------------------------------------------------------------------- who may do it


def test_nobody_without_a_token_and_no_page_of_others(server: JupyterServer) -> None:
    """Without a token there is nothing to read; with a browser's cookie alone nothing can be changed: the page's own
    XSRF token is needed."""
    for method, path in (("GET", "kernels"), ("GET", "events"), ("POST", "prune"), ("GET", "openapi.json")):
        status, answer, _ = bare(server, method, f"/sepal/api/{path}")
        assert (status, json.loads(answer)["error"]["code"]) == (403, "http-403")
    _, _, headers = bare(server, "GET", f"/api/status?token={TOKEN}")
    cookies = "; ".join(value.split(";")[0] for name, value in headers if name == "Set-Cookie")
    assert bare(server, "GET", "/sepal/api/prune", Cookie=cookies)[0] == 200
    assert bare(server, "POST", "/sepal/api/sync", Cookie=cookies)[0] == 403


def bare(server: JupyterServer, method: str, path: str, **headers: str) -> tuple[int, bytes, list[tuple[str, str]]]:
    """A request with no other headers than these: (status, body, headers)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    found = response.status, response.read(), response.getheaders()
    connection.close()
    return found


READER = """
from jupyter_server.auth import Authorizer
class Reader(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return resource != "sepal" or action == "read"
c.ServerApp.authorizer_class = Reader
"""


def test_who_may_only_read_changes_nothing(shared: Site) -> None:
    """The server's authorizer decides, for the resource `sepal`: read, write and execute."""
    config = shared.config(**EXTENSION)
    config = config.rename(config.with_name("reader_config.py"))
    config.write_text(config.read_text() + READER)
    with JupyterServer(config) as server:
        document = server.get("/sepal/api/kernels")
        assert document["may"] == {"execute": False, "write": False}
        for path in ("kernels/venv-unbuilt/build", "kernels/venv-unbuilt/cancel", "kernels/venv-ready/rollback"):
            assert post(server, path)[0] == 403
        assert post(server, "prune")[0] == post(server, "sync")[0] == 403
    assert not shared.store.generations("venv-unbuilt")


def test_a_server_with_another_manager_says_so(tmp_path: Path) -> None:
    """Enabled by its installation alone, the extension does nothing but say what is missing."""
    config = tmp_path / "jupyter_server_config.py"
    config.write_text("c = get_config()\nc.ServerApp.jpserver_extensions = {'sepal_provisioner.extension': True}\n")
    with JupyterServer(config) as server:
        for method, path in (("GET", "kernels"), ("GET", "events"), ("GET", "prune"), ("POST", "sync")):
            status, answer = server.request(method, f"/sepal/api/{path}")
            assert (status, answer["error"]["code"]) == (503, "settings-invalid")
            assert "kernel_spec_manager_class" in answer["error"]["message"]


def test_the_installation_enables_it() -> None:
    """The wheel carries a file that enables the extension under the name that it has."""
    folder = "etc/jupyter/jupyter_server_config.d"
    document = json.loads((ROOT / folder / "sepal_provisioner.json").read_text())
    assert document == {"ServerApp": {"jpserver_extensions": {"sepal_provisioner.extension": True}}}
    assert f'"{folder}" = "{folder}"' in (ROOT / "pyproject.toml").read_text()


# ------------------------------------------------------------------------------------------------------- changing


def test_a_build_from_start_to_end(conda_site: Site) -> None:
    """A build that is asked for is seen by the stream, by Jupyter's events and by the metrics; a second one goes beside
    the first; a rollback and its end are changes, too; a failed build is counted by its code."""
    conda_site.add("way", {"sepal_environment.yml": SMALL.format("")})
    conda_site.add("broken", {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python, broken-dep]\n"})
    conda_site.sync()
    with JupyterServer(conda_site.config(**EXTENSION)) as server, stream(server) as events:
        socket = websocket.create_connection(
            f"ws://127.0.0.1:{server.port}/api/events/subscribe", timeout=120, header=[f"Authorization: token {TOKEN}"]
        )
        assert post(server, "kernels/way/build") == (
            202, {"name": "venv-way", "state": "building", "started": True},
        )  # fmt: skip
        assert post(server, "kernels/way/build")[1]["started"] is False
        heard, deadline = [], time.monotonic() + PATIENCE
        while not heard or heard[-1]["action"] != "ended":
            event = hear(socket, deadline)
            assert event is not None, heard
            heard += [event] if event["schema_id"] == SCHEMA else []
        assert heard[0]["action"] == "started" and {event["kernel_name"] for event in heard} == {"venv-way"}
        assert (heard[-1]["result"], heard[-1]["phase"], heard[-1]["fraction"]) == ("ok", "done", 1)
        assert heard[-1]["seconds"] > 0 and heard[-1]["attempt"] == 1
        fractions = [event["fraction"] for event in heard]
        assert fractions == sorted(fractions)

        seen = [next_event(events)]
        while seen[-1][1].get("state") != "ready":
            seen.append(next_event(events))
        assert {name for name, _ in seen} <= {"kernel", "progress"}
        assert any(data["state"] == "building" for name, data in seen if name == "kernel")

        assert post(server, "kernels/way/build") == (202, {"name": "venv-way", "state": "ready", "started": False})
        assert post(server, "kernels/way/build", force=True)[1]["started"]
        until(lambda: kernel(server, "way")["versions"] == 2, "the second version")
        until(lambda: not server.get("/sepal/api/kernels/way/progress")["building"], "the build to end")
        status, answer = post(server, "kernels/way/rollback")
        assert status == 200 and answer["prefix"].endswith("-1")
        assert kernel(server, "way")["rolled_back"] and kernel(server, "way")["prefix"] == answer["prefix"]
        assert post(server, "kernels/way/rollback", undo=True) == (200, {"name": "venv-way", "prefix": None})
        assert not kernel(server, "way")["rolled_back"]

        post(server, "kernels/broken/build")
        until(lambda: kernel(server, "broken")["state"] == "failed", "the build to fail")
        assert kernel(server, "broken")["failure"]["code"] == "unsolvable"
        progress = server.get("/sepal/api/kernels/broken/progress")["progress"]
        assert progress["error"] == "unsolvable" and progress["ended"]

        with server.kernel("venv-way") as running:
            running.run("1")
        until(lambda: 'code="unsolvable"' in metrics(server), "the failure to be counted")
        page = metrics(server)
        assert value(page, 'sepal_builds_total{result="ok"}') == 2
        assert value(page, 'sepal_builds_total{result="failed"}') == 1
        assert value(page, 'sepal_build_failures_total{code="unsolvable"}') == 1
        assert value(page, 'sepal_build_phase_seconds_count{phase="solve"}') == 3
        assert value(page, 'sepal_launches_total{kind="ready"}') == 1
        assert value(page, 'sepal_kernels{state="ready"}') == value(page, 'sepal_kernels{state="failed"}') == 1
        assert value(page, "sepal_environments_bytes") > 1_000_000 < value(page, "sepal_store_free_bytes")
        socket.close()


def metrics(server: JupyterServer) -> str:
    """The server's own metrics."""
    return bare(server, "GET", "/metrics", Authorization=f"token {TOKEN}")[1].decode()


def value(page: str, name: str) -> float:
    """One value of the metrics."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    assert found, (name, [line for line in page.splitlines() if "sepal" in line])
    return float(found[1])


def test_cancelling_and_waiting_kernels(slow_site: Site) -> None:
    """A build that a waiting kernel asked for is seen as well; cancelled, it leaves nothing, and its kernel's start is
    counted as one that waits."""
    with JupyterServer(slow_site.config(**EXTENSION)) as server:
        with server.kernel("venv-crawl"):
            until(lambda: kernel(server, "crawl")["state"] == "building", "the build")
            shown = until(lambda: kernel(server, "crawl")["progress"], "progress")
            assert shown["phase"] in ("prepare", "solve", "download") and 0 <= shown["fraction"] < 1
            assert post(server, "kernels/crawl/cancel") == (200, {"name": "venv-crawl", "cancelled": True})
            assert post(server, "kernels/crawl/cancel") == (200, {"name": "venv-crawl", "cancelled": False})
        assert not slow_site.store.generations("venv-crawl")
        until(lambda: 'code="build-cancelled"' in metrics(server), "the end to be counted")
        assert value(metrics(server), 'sepal_launches_total{kind="waiting"}') == 1


@pytest.fixture
def slow_site(channel: Path, tmp_path: Path) -> Iterator[Site]:
    """A site whose downloads do not end."""
    from slow import slow_channel

    with slow_channel(channel, 100_000) as (slow, _):
        site = Site(tmp_path / "site", slow)
        site.add("crawl", {"sepal_environment.yml": SMALL.format("")})
        site.sync()
        yield site


def test_prune_shows_its_plan_and_removes_what_was_confirmed(site: Site) -> None:
    """The plan says what goes and why; only what is confirmed goes, and the rest with the next one."""
    site.add("stays", {"sepal_environment.yml": SMALL.format("")})
    site.sync()
    for name in ("gone", "lost"):
        (site.store.apps / name).mkdir(parents=True)
        site.store.apps.joinpath(name, ".git").mkdir()
        generation = site.store.folder(f"venv-{name}") / ("0" * 16 + "-1")
        (generation / "lib").mkdir(parents=True)
        (generation / "lib" / "file").write_bytes(b"x" * 50_000)
    with JupyterServer(site.config(**EXTENSION)) as server:
        plan = server.get("/sepal/api/prune")
        going = [item["path"] for item in plan["items"] if item["remove"]]
        folder = str(site.store.folder("venv-gone") / ("0" * 16 + "-1"))
        assert folder in going and plan["freed"] >= 100_000
        status, done = post(server, "prune", paths=[folder])
        assert status == 200 and [item["path"] for item in done["items"]] == [folder] and done["freed"] >= 50_000
        assert not Path(folder).exists() and site.store.folder("venv-lost").exists()
        status, done = post(server, "prune")
        assert status == 200 and not site.store.folder("venv-lost").exists()


def test_a_sync_is_begun_and_told(site: Site) -> None:
    """A sync is asked for, runs in the background, and whoever looks on hears of its end and of a new kernel."""
    with JupyterServer(site.config(**EXTENSION)) as server, stream(server) as events:
        site.add("new", {"sepal_environment.yml": SMALL.format("")})
        assert post(server, "sync") == (202, {"started": True})
        heard = [next_event(events)]
        while "kernel" not in [name for name, _ in heard]:
            heard.append(next_event(events))
        assert heard[0][0] == "sync" and heard[-1][1]["name"] == "venv-new"
        until(lambda: not server.get("/sepal/api/kernels")["sync"]["running"], "the sync to end")
        site.options["catalogs"] = []
    with JupyterServer(site.config(**EXTENSION)) as server:
        assert post(server, "sync")[0] == 503


def test_the_server_ends_while_somebody_looks_on(site: Site) -> None:
    """A stream that is open is ended by the server's end, and does not hold it up."""
    with JupyterServer(site.config(**EXTENSION)) as server, stream(server) as events:
        assert events.readline() == b"retry: 3000\n"
        server.process.terminate()
        assert b"event:" not in events.read()
        server.process.wait(PATIENCE)


# --------------------------------------------------------------------------------------------- what the watch sees


def test_a_killed_build_is_told_once(site: Site) -> None:
    """A build that ends without a word is told as killed, after a second look and once; what ended before the server
    began is not told; one that is started again is another build."""
    site.add("app", {"sepal_environment.yml": SMALL.format("")})
    site.sync()
    views, comparison = Views(site.stores), Comparison()
    found = views.look()["venv-app"].kernel
    path, lock = (site.store.beside(found.name, found.fingerprint, what) for what in ("progress.json", "lock"))

    def look(now: float) -> list[str]:
        return [f"{c.kind} {c.result}".strip() for c in comparison.changes(views.look(), [], now)]

    Reporter(path, found.name, found.fingerprint).end()
    assert look(0) == []
    reporter = Reporter(path, found.name, found.fingerprint)
    with locks.exclusive(lock, timeout=0, waiting_for="test"):
        reporter.begin()
        assert look(1) == ["started", "kernel"]
        reporter.phase(Phase.SOLVE)
        assert look(1.5) == [] and look(2) in ([], ["progressed"])
        reporter.phase(Phase.DOWNLOAD, total=3)
        assert look(4) == ["progressed"]
    assert look(5) == ["kernel"] and look(6) == ["ended build-killed"] and look(7) == []
    with locks.exclusive(lock, timeout=0, waiting_for="test"):
        Reporter(path, found.name, found.fingerprint).begin()
        assert look(8) == ["started", "kernel"]
