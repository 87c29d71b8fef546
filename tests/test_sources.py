"""Fetching catalogs from files, HTTP servers and repositories: whatever happens, the last good copy is there."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import commit, git
from test_git import SECRET, hanging_server, serve_git

from sepal_provisioner import catalog as catalog_module
from sepal_provisioner import sources as sources_module
from sepal_provisioner.settings import Sepal
from sepal_provisioner.sources import Fetched, fetch_catalog
from sepal_provisioner.store import Store


def document(*names: str) -> bytes:
    """A catalog with kernels of these names."""
    apps = [
        {"id": name, "label": name, "endpoint": "jupyter", "repository": f"https://host/owner/{name}"} for name in names
    ]
    return json.dumps({"apps": apps, "tags": []}).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers as the test says and keeps what was asked."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(dict(self.headers))
        self.server.paths.append(self.path)
        self.server.answer(self)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """An HTTP server on loopback. `answer` may be changed at any time; `stopping` is set before it ends."""

    daemon_threads = False

    def __init__(self, answer: Callable[[Handler], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.stopping = threading.Event()
        self.finished = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


@contextmanager
def serve(answer: Callable[[Handler], None]) -> Iterator[Server]:
    """A running server."""
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


def always(body: bytes, status: int = 200, **headers: str) -> Callable[[Handler], None]:
    """Always the same answer."""
    return lambda handler: handler.reply(status, body, **headers)


class Place:
    """A store, and the settings that fetching needs."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "store")
        self.options: dict[str, Any] = {"catalog_timeout": 20, "repository_schemes": ["https", "file", "http"]}

    def fetch(self, source: str | Path) -> Fetched:
        """Fetch one catalog, as a sync does it."""
        return fetch_catalog(str(source), self.store, Sepal(store=str(self.store.root), **self.options))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty store."""
    return Place(tmp_path)


def names(fetched: Fetched) -> list[str] | None:
    """The ids of a catalog's applications, None without a catalog."""
    return None if fetched.catalog is None else [app.id for app in fetched.catalog.apps]


def good(fetched: Fetched, *expected: str) -> float:
    """It went well and gave these applications; returns when."""
    assert fetched.state.error == ""
    assert names(fetched) == list(expected)
    assert fetched.state.apps == len(expected)
    assert fetched.state.fetched > 0
    return fetched.state.fetched


def last_good(fetched: Fetched, when: float, words: str, *expected: str) -> None:
    """It went wrong with these words, and what was good at that time is used."""
    assert words in fetched.state.error
    assert names(fetched) == list(expected)
    assert fetched.state.fetched == when
    assert fetched.state.apps == len(expected)


def nothing(fetched: Fetched, words: str = "") -> None:
    """It went wrong with these words, and there is no copy."""
    assert fetched.state.error
    assert words in fetched.state.error
    assert len(fetched.state.error) < 5_000
    assert fetched.catalog is None
    assert (fetched.state.fetched, fetched.state.apps) == (0, 0)


# --------------------------------------------------------------------------------------------------------- files


def test_a_file_is_read(place: Place, tmp_path: Path) -> None:
    """A catalog file is read each time, with its problems, and `~` is the home folder."""
    path = tmp_path / "apps.json"
    path.write_bytes(document("a", "b"))
    good(place.fetch(path), "a", "b")
    (Path.home() / "apps.json").write_bytes(b'{"apps": [7]}')
    fetched = place.fetch("~/apps.json")
    good(fetched)
    assert fetched.catalog is not None
    assert fetched.catalog.problems[0].place == "apps[0]"
    path.write_bytes(document("c"))
    good(place.fetch(path), "c")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "not JSON"),
        (b'{"apps": [', "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "apps"),
    ],
)
def test_a_bad_file_costs_nothing(place: Place, tmp_path: Path, content: bytes | None, words: str) -> None:
    """When a file is gone or damaged the last good copy is used, marked with its age and with what is wrong."""
    path = tmp_path / "apps.json"
    path.write_bytes(document("a"))
    when = good(place.fetch(path), "a")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    last_good(place.fetch(path), when, words, "a")
    path.write_bytes(document("b"))
    assert good(place.fetch(path), "b") > when


def test_odd_files_are_no_catalogs(place: Place, tmp_path: Path) -> None:
    """A folder, a FIFO, an endless device, an unknown user's home and names that can't be are errors, never more."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "round").symlink_to("round")
    for source in (tmp_path, tmp_path / "fifo", "/dev/zero", tmp_path / "round"):
        nothing(place.fetch(source), "can't be read")
    for source in ("~nobody-of-that-name/apps.json", "", "a\0b", "x" * 5_000, "\n", "ftp://host/apps.json"):
        assert place.fetch(source).catalog is None
        assert place.fetch(source).state.error


def test_a_file_that_is_too_large_is_refused(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a catalog's size holds for files too."""
    monkeypatch.setattr(sources_module, "CATALOG_LIMIT", 1_000)
    (tmp_path / "apps.json").write_bytes(document("a") + b" " * 1_000)
    nothing(place.fetch(tmp_path / "apps.json"), "larger than 1.0 kB")


def test_each_source_has_a_copy_of_its_own(place: Place, tmp_path: Path) -> None:
    """Two catalogs never share a last good copy."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(document(name))
        place.fetch(tmp_path / name)
        (tmp_path / name).unlink()
    assert [names(place.fetch(tmp_path / name)) for name in ("a", "b")] == [["a"], ["b"]]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"fetched": null}'])
def test_a_damaged_copy_is_as_good_as_none(place: Place, tmp_path: Path, damage: bytes) -> None:
    """A last good copy, or the record of its age, that was damaged is an error and no exception."""
    path = tmp_path / "apps.json"
    path.write_bytes(document("a"))
    place.fetch(path)
    path.unlink()
    for record in place.store.catalogs.glob("*.meta"):
        record.write_bytes(damage)
    assert names(place.fetch(path)) == ["a"]
    for copy in place.store.catalogs.glob("*.json"):
        copy.write_bytes(damage)
    nothing(place.fetch(path), "No such file")


# ---------------------------------------------------------------------------------------------------------- http


def test_a_catalog_comes_over_http(place: Place) -> None:
    """A catalog is fetched by GET from the path and query of its URL."""
    with serve(always(document("a"))) as server:
        fetched = place.fetch(f"{server.url}/owner/apps.json?ref=main")
    good(fetched, "a")
    assert server.paths == ["/owner/apps.json?ref=main"]
    assert "Authorization" not in server.asked[0]
    assert "If-None-Match" not in server.asked[0]


def test_an_unchanged_catalog_is_not_sent_again(place: Place) -> None:
    """With the ETag of the last good copy the server sends nothing anew, and the copy counts as fetched just now."""
    sent: list[str] = []

    def answer(handler: Handler) -> None:
        if handler.headers["If-None-Match"] == '"one"':
            handler.send_response(304)
            handler.end_headers()
        else:
            sent.append(handler.path)
            handler.reply(200, document("a"), ETag='"one"')

    with serve(answer) as server:
        first = good(place.fetch(server.url), "a")
        second = good(place.fetch(server.url), "a")
        third = good(place.fetch(server.url), "a")
    assert len(server.asked) == 3
    assert len(sent) == 1
    assert first < second < third


def test_a_changed_catalog_is_sent_with_its_new_etag(place: Place) -> None:
    """A catalog that changed is taken, and the next request names the new ETag."""
    with serve(always(document("a"), ETag='"one"')) as server:
        place.fetch(server.url)
        server.answer = always(document("b"), ETag='"two"')
        good(place.fetch(server.url), "b")
        place.fetch(server.url)
    assert [asked.get("If-None-Match") for asked in server.asked] == [None, '"one"', '"two"']


def test_a_copy_that_was_damaged_heals(place: Place) -> None:
    """After a copy was damaged, a server that says `unchanged` is soon asked for all of it again."""

    def answer(handler: Handler) -> None:
        if handler.headers["If-None-Match"]:
            handler.send_response(304)
            handler.end_headers()
        else:
            handler.reply(200, document("a"), ETag='"one"')

    with serve(answer) as server:
        place.fetch(server.url)
        (copy,) = place.store.catalogs.glob("*.json")
        copy.write_bytes(b'{"apps": [')
        place.fetch(server.url)
        good(place.fetch(server.url), "a")


def test_unchanged_without_a_copy_is_an_error(place: Place) -> None:
    """A server that says `unchanged` to somebody who has nothing is an error and no exception."""
    with serve(always(b"", 304)) as server:
        nothing(place.fetch(server.url))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (always(b"gone", 404), "HTTP 404"),
        (always(b"oops", 500), "HTTP 500"),
        (always(b"", 401), "HTTP 401"),
        (always(b"", 429), "HTTP 429"),
        (always(b"<!doctype html><title>Sign in</title>"), "not JSON"),
        (always(document("b")[:-10]), "not JSON"),
        (always(b""), "not JSON"),
        (always(b"[]"), "apps"),
        (always(b"", 302), ""),
        (always(b"", 302, Location="file:///etc/passwd"), ""),
        (always(b"", 302, Location="http://[bad"), ""),
        (always(b"", 302, Location="/again"), ""),
        (lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n"), ""),
        (lambda handler: None, ""),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), ""),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), ""),
    ],
    ids=range(16),
)
def test_a_bad_answer_costs_nothing(place: Place, answer: Callable[[Handler], None], words: str) -> None:
    """Whatever a server answers, the last good copy is used with its age and the error; without one there is none."""
    with serve(answer) as server:
        nothing(place.fetch(server.url), words)
        server.answer = always(document("a"))
        when = good(place.fetch(server.url), "a")
        server.answer = answer
        last_good(place.fetch(server.url), when, words, "a")
        server.answer = always(document("b"))
        assert good(place.fetch(server.url), "b") > when


def test_a_server_that_is_not_there_costs_nothing(place: Place) -> None:
    """A refused connection and an unknown host are errors with their reason, and the last good copy is used."""
    with serve(always(document("a"))) as server:
        when = good(place.fetch(server.url), "a")
    last_good(place.fetch(server.url), when, "refused", "a")
    nothing(place.fetch("https://host.invalid/apps.json"))


@pytest.mark.parametrize(
    "source",
    [
        "http://",
        "http:///apps.json",
        "http://[::1/apps.json",
        "http://user:secret@[::1/apps.json",
        "http://host:port/apps.json",
        "http://127.0.0.1:99999/apps.json",
        "http://ho st/apps.json",
        "http://127.0.0.1:1/a b\r\nX: y",
        "http://ho\0st/apps.json",
        "http://höst.invalid/äpps.json",
        "http://" + "x" * 300 + "/apps.json",
        "https://127.0.0.1:1/apps.json",
        "http://-oProxyCommand=x/apps.json",
    ],
)
def test_an_odd_url_is_an_error_and_no_exception(place: Place, source: str) -> None:
    """A mistake in a configured URL is reported for that catalog and stops nothing else."""
    fetched = place.fetch(source)
    nothing(fetched)
    assert "secret" not in fetched.state.error + fetched.state.source


def test_a_redirect_is_followed(place: Place) -> None:
    """A catalog that moved is fetched from where it is now."""

    def answer(handler: Handler) -> None:
        if handler.path == "/new":
            handler.reply(200, document("a"))
        else:
            handler.reply(301, Location="/new")

    with serve(answer) as server:
        good(place.fetch(f"{server.url}/old"), "a")
    assert server.paths == ["/old", "/new"]


def test_a_user_and_password_are_sent_as_a_header_and_shown_nowhere(place: Place) -> None:
    """Credentials in the URL become HTTP's own header, decoded, and stand in no state, message or file."""
    expected = base64.b64encode(f"user@site:{SECRET}".encode()).decode()
    with serve(always(document("a"))) as server:
        source = server.url.replace("//", f"//user%40site:{SECRET.replace('+', '%2B')}@") + "/apps.json"
        good(place.fetch(source), "a")
        assert server.asked[0]["Authorization"] == f"Basic {expected}"
        assert "@" not in server.asked[0]["Host"]
        server.answer = always(b"no", 403)
        fetched = place.fetch(source)
    assert fetched.state.source == f"{server.url}/apps.json"
    assert "HTTP 403" in fetched.state.error
    shown = fetched.state.error + "".join(path.read_text() for path in place.store.root.rglob("*") if path.is_file())
    for secret in (SECRET, SECRET.replace("+", "%2B"), expected, "user%40site"):
        assert secret not in shown


def test_a_password_is_not_sent_to_where_a_redirect_leads(place: Place) -> None:
    """Another server that the first one points to doesn't get the first one's password."""
    with serve(always(document("a"))) as other, serve(always(b"", 302, Location=f"{other.url}/apps.json")) as server:
        good(place.fetch(server.url.replace("//", f"//user:{SECRET}@")), "a")
    assert "Authorization" in server.asked[0]
    assert "Authorization" not in other.asked[0]


# -------------------------------------------------------------------------------------------------------- limits


def drip(handler: Handler, head: bytes, drop: bytes) -> None:
    """Send the first part at once and then a byte now and then for a minute, or until the test has enough."""
    handler.wfile.write(head)
    for _ in range(1_200):
        if handler.server.stopping.wait(0.05):
            return
        handler.wfile.write(drop)
    handler.server.finished.set()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(("head", "drop"), [(OK + b"\r\n", b" "), (OK + b"X: ", b"y")], ids=["body", "headers"])
def test_a_server_that_drips_is_left_after_the_time_limit(place: Place, head: bytes, drop: bytes) -> None:
    """The time limit is for all of an answer: one whose bytes come one by one for a minute isn't waited for."""
    place.options["catalog_timeout"] = 1
    with serve(always(document("a"))) as server:
        when = good(place.fetch(server.url), "a")
        server.answer = lambda handler: drip(handler, head, drop)
        last_good(place.fetch(server.url), when, "longer than 1 s (c.Sepal.catalog_timeout)", "a")
        assert not server.finished.is_set()


def test_a_server_that_never_answers_is_left_after_the_time_limit(place: Place) -> None:
    """A connection on which nothing is ever said ends with the time limit."""
    place.options["catalog_timeout"] = 1
    with hanging_server() as (port, connected):
        nothing(place.fetch(f"http://127.0.0.1:{port}/apps.json"), "c.Sepal.catalog_timeout")
        assert connected.is_set()


def test_a_catalog_up_to_the_limit_is_taken_and_a_larger_one_is_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit itself passes, a byte more does not, whether or not the server says how much comes."""
    size = len(document("a"))
    monkeypatch.setattr(sources_module, "CATALOG_LIMIT", size)
    monkeypatch.setattr(catalog_module, "CATALOG_LIMIT", size)
    with serve(always(document("a"))) as server:
        when = good(place.fetch(server.url), "a")
        server.answer = always(document("a") + b" ")
        last_good(place.fetch(server.url), when, "is larger than", "a")
        server.answer = lambda handler: handler.wfile.write(OK + b"\r\n" + document("a") + b" ") and None
        last_good(place.fetch(server.url), when, "is larger than", "a")


def test_an_endless_catalog_is_not_read_to_its_end(place: Place) -> None:
    """Of 200 MB no more is taken than the limit and what is on its way."""
    sent: list[int] = []

    def answer(handler: Handler) -> None:
        handler.wfile.write(OK + b"\r\n" + b'{"apps": [], "tags": "')
        block = b"x" * 1_000_000
        for _ in range(200):
            handler.wfile.write(block)
            sent.append(len(block))

    with serve(answer) as server:
        nothing(place.fetch(server.url), "is larger than 20.0 MB")
    assert sum(sent) < 100_000_000


# ----------------------------------------------------------------------------------------------------------- git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a catalog in a folder."""
    folder = tmp_path / "remote" / "catalogs"
    commit(folder, {"config/apps.json": document("a"), "other.json": document("o")})
    return folder


def test_a_catalog_comes_out_of_a_repository(place: Place, repository: Path) -> None:
    """Branch and path choose the file, without a branch it's the remote's HEAD, and new commits are seen."""
    git(repository, "checkout", "--quiet", "-b", "test")
    commit(repository, {"config/apps.json": document("t")})
    git(repository, "checkout", "--quiet", "main")
    good(place.fetch(f"git+file://{repository}#config/apps.json"), "a")
    good(place.fetch(f"git+file://{repository}@main#other.json"), "o")
    good(place.fetch(f"git+file://{repository}@test#config/apps.json"), "t")
    commit(repository, {"config/apps.json": document("b")})
    good(place.fetch(f"git+file://{repository}#config/apps.json"), "b")


def test_a_branch_may_have_a_slash(place: Place, repository: Path) -> None:
    """A branch such as `feature/x` can be named."""
    git(repository, "checkout", "--quiet", "-b", "feature/x")
    commit(repository, {"config/apps.json": document("x")})
    git(repository, "checkout", "--quiet", "main")
    good(place.fetch(f"git+file://{repository}@feature/x#config/apps.json"), "x")


def test_a_repository_that_fails_costs_nothing(place: Place, repository: Path) -> None:
    """A file, branch or repository that is gone leaves the last good copy in use, with the reason."""
    source = f"git+file://{repository}@main#config/apps.json"
    when = good(place.fetch(source), "a")
    commit(repository, {"config/apps.json": None})
    last_good(place.fetch(source), when, "config/apps.json", "a")
    commit(repository, {"config/apps.json": b"{"})
    last_good(place.fetch(source), when, "not JSON", "a")
    git(repository, "branch", "--move", "trunk")
    last_good(place.fetch(source), when, "has no branch 'main'", "a")
    repository.rename(repository.with_name("elsewhere"))
    last_good(place.fetch(source), when, "can't be fetched", "a")


@pytest.mark.parametrize("path", ["../../../secret.json", "/etc/passwd", "link.json", "round.json", "config", "a\0b"])
def test_a_path_never_leads_out_of_the_repository(place: Place, repository: Path, tmp_path: Path, path: str) -> None:
    """Neither dots nor an absolute path nor a link in the repository make anything else of the server's a catalog."""
    (tmp_path / "secret.json").write_bytes(document("secret"))
    (repository / "link.json").symlink_to(tmp_path / "secret.json")
    (repository / "round.json").symlink_to("round.json")
    commit(repository, {})
    nothing(place.fetch(f"git+file://{repository}#{path}"), "can't be read")


@pytest.mark.parametrize(
    "source",
    [
        "git+",
        "git+#",
        "git+#apps.json",
        "git+https://host/owner/name",
        "git+https://host/owner/name#",
        "git+--upload-pack=touch $RAN#apps.json",
        "git+ext::sh -c 'touch $RAN'#apps.json",
        "git+ext::touch$IFS$RAN#apps.json",
        "git+ssh://-oProxyCommand=touch$IFS$RAN/x#apps.json",
        "git+../..#apps.json",
        "git+/etc#apps.json",
        "git+ftp://host/owner/name#apps.json",
        "git+https://host/#apps.json",
        "git+https://[::1/name#apps.json",
        "git+file://$REPOSITORY@--upload-pack=touch $RAN#config/apps.json",
        "git+file://$REPOSITORY@-x#config/apps.json",
        "git+file://$REPOSITORY@a..b#config/apps.json",
        "git+file://$REPOSITORY\n@main#config/apps.json",
    ],
)
def test_a_hostile_git_source_runs_nothing(place: Place, repository: Path, tmp_path: Path, source: str) -> None:
    """A source that names an option, a remote helper or no repository at all is an error, and nothing of it runs."""
    nothing(place.fetch(source.replace("$RAN", f"{tmp_path}/ran").replace("$REPOSITORY", str(repository))))
    assert not (tmp_path / "ran").exists()


def test_the_allowed_schemes_hold_for_catalogs_too(place: Place, repository: Path) -> None:
    """A catalog's repository obeys the setting that its applications' repositories obey."""
    place.options["repository_schemes"] = ["https"]
    nothing(place.fetch(f"git+file://{repository}#config/apps.json"), "c.Sepal.repository_schemes")


def test_the_password_of_a_catalogs_repository_is_shown_nowhere(place: Place, repository: Path) -> None:
    """A catalog's repository behind a password is read, and whatever fails, the password is nowhere to be seen."""
    with serve_git(repository.parent, f"user:{SECRET}") as server:
        url = server.url.replace("//", f"//user:{SECRET}@")
        good(place.fetch(f"git+{url}/catalogs@main#config/apps.json"), "a")
        failed = [
            place.fetch(f"git+{url}/{rest}")
            for rest in (
                "catalogs@main#missing.json",
                "catalogs@missing#config/apps.json",
                "missing#config/apps.json",
                "catalogs",
                "a b#config/apps.json",
            )
        ]
        place.options["repository_schemes"] = ["https"]
        failed.append(place.fetch(f"git+{url}/catalogs@main#other.json"))
    for fetched in failed:
        nothing(fetched)
        assert SECRET not in fetched.state.error + fetched.state.source
    for path in place.store.root.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_a_repository_that_hangs_is_left_after_its_time_limit(place: Place) -> None:
    """git's own time limit holds for catalogs too."""
    place.options["git_timeout"] = 1
    with hanging_server() as (port, _):
        nothing(place.fetch(f"git+http://127.0.0.1:{port}/owner/catalogs#apps.json"), "c.Sepal.git_timeout")


def test_fetching_at_another_time_says_when(place: Place, tmp_path: Path) -> None:
    """The age of a copy is that of the last success, however often it failed since."""
    path = tmp_path / "apps.json"
    path.write_bytes(document("a"))
    before = time.time()
    when = good(place.fetch(path), "a")
    assert before <= when <= time.time()
    path.write_bytes(b"{")
    for _ in range(3):
        last_good(place.fetch(path), when, "not JSON", "a")
