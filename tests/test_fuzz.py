"""Whatever a file holds: every reader ends in a value of bounded size or in the error that its docstring names."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_sources import Place, always, serve
from test_sources import document as catalog_of

from sepal_provisioner.catalog import APPS_LIMIT, Catalog, parse_catalog
from sepal_provisioner.envfile import (
    CONDA_FILE,
    REQUIREMENTS_FILE,
    EnvironmentFile,
    find_environment_file,
    read_environment_file,
)
from sepal_provisioner.environ import launch_environment
from sepal_provisioner.errors import CatalogError, EnvironmentFileError, SepalError, SettingsError
from sepal_provisioner.generation import Generation, Record
from sepal_provisioner.index import CatalogState, Index, Kernel, Problem, read_index, write_index
from sepal_provisioner.progress import DETAIL_LIMIT, Progress, read_progress
from sepal_provisioner.request import Request
from sepal_provisioner.settings import Sepal

FUZZ = settings(
    max_examples=int(os.environ.get("SEPAL_TEST_EXAMPLES") or 200),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SCHEMES = frozenset({"https", "ssh"})
MESSAGE_LIMIT = 5_000  # characters of what a person is told

# --------------------------------------------------------------------------------------- documents, nearly valid

TEXTS = ["", " ", ".", "..", "../x", "/etc/passwd", "a\0b", "a\nb", "\x1b[31m", "\ud800", "\u202e", "-x", "~nobody/x"]
TEXTS += ["x" * 5_000, "https://u:p@h/o/n", "ext::sh", "https://[::1/o/n", "NaN", "venv-a/../b", "é" * 300]
ODD = st.sampled_from(TEXTS)
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 10**308, 1e308, -1e308, 5e-324, 2**63, -1, 0, -0.0]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, ODD, st.text(max_size=20))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD | st.text(max_size=8), inner, max_size=4)
)


def places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in a document, its own first."""
    found = [at]
    keys: Any = (
        document.keys() if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    )
    for key in keys:
        found += places(document[key], (*at, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, base: Any) -> Any:
    """A document in which up to four values are replaced, removed, wrapped or repeated."""
    document = copy.deepcopy(base)
    for _ in range(draw(st.integers(0, 4))):
        path = draw(st.sampled_from(places(document)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                document = draw(VALUES)
            continue
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "replace", "remove", "wrap", "repeat", "add"]))
        if how == "remove":
            del parent[path[-1]]
        elif how == "wrap":
            parent[path[-1]] = [parent[path[-1]]]
        elif how == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        elif how == "add" and isinstance(parent, dict):
            parent[draw(ODD)] = draw(VALUES)
        else:
            parent[path[-1]] = draw(VALUES)
    return document


@st.composite
def damaged(draw: st.DrawFn, base: bytes) -> bytes:
    """Bytes of which some are removed, changed or repeated."""
    data = bytearray(base)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        data[start:end] = draw(st.one_of(st.binary(max_size=6), st.just(bytes(data[start:end]) * 2)))
    return bytes(data)


def documents(base: Any) -> st.SearchStrategy[bytes]:
    """Anything from the document to any bytes at all."""
    text = json.dumps(base).encode()
    return st.one_of(
        mutated(base).map(lambda value: json.dumps(value).encode()), damaged(text), st.binary(max_size=300)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all examples of a test write to."""
    return tmp_path_factory.mktemp("fuzz")


def told(error: SepalError) -> None:
    """An error is short, and can be written and shown."""
    assert 0 < len(error.message) < MESSAGE_LIMIT
    json.dumps(error.message)


# ------------------------------------------------------------------------------------------------------- catalog

CATALOG = {
    "apps": [
        {"id": "a", "label": "A", "endpoint": "jupyter", "repository": "https://host/o/a", "branch": "main"},
        {"id": "b", "label": "B", "endpoint": "jupyter", "repository": "git@host:o/b", "commit": "a" * 40},
        {"id": "c", "label": "C", "endpoint": "shiny", "repository": None, "hidden": True, "skip": False},
    ],
    "tags": [{"value": "x"}],
}


@FUZZ
@given(data=documents(CATALOG))
def test_any_catalog(data: bytes) -> None:
    """A catalog is read or a CatalogError, each kernel in it can become a path, and problems are no larger than it."""
    try:
        catalog: Catalog = parse_catalog(data, SCHEMES)
    except CatalogError as error:
        told(error)
        return
    assert len(catalog.apps) + len(catalog.problems) <= APPS_LIMIT
    for app in catalog.apps:
        if app.is_kernel:
            assert app.name not in ("", ".", "..", ".git") and not set(app.name) & set("/\\\0\n")
            assert not app.repository.startswith("-") and "::" not in app.repository.partition("//")[0]
            assert not app.branch or (app.branch[0] != "-" and app.branch.isprintable())
            assert app.commit is None or len(app.commit) == 40
    for problem in catalog.problems:
        assert problem.message.isprintable()
    assert sum(len(str(problem)) for problem in catalog.problems) < 300 * (len(catalog.problems) + 1) + 12 * len(data)


# ---------------------------------------------------------------------------------------------- environment files

CONDA = """\
name: x
channels: [conda-forge, &c defaults]
dependencies:
  - python=3.10
  - conda-forge::gdal>=3 # a comment
  - pip
  - pip:
      - numpy
      - -r more.txt
      - ./pkg
      - -e .
variables:
  A: "$(touch x)"
prefix: /x
"""
PIECES = ["dependencies:", "channels:", "variables:", "- ", "  ", "\n", "pip:", "&a ", "*a", "[", "]", "{", "}", ": "]
PIECES += ['"', "'", "\\", "|", ">", "#", "!!int ", "!!python/name:os.system ", "%YAML 1.1\n", "---\n", "\t", "python"]
PIECES += [
    "? ",
    "<<: ",
    "~",
    "\0",
    "\x85",
    "\u2028",
    "\ufeff",
    "\x1b",
    "\\U00110000",
    "é",
    "-r link",
    "- ./pkg\n",
    "...",
]
LINES = [
    "-r",
    "-c",
    "-e",
    "-f",
    "--requirement",
    "--requirem",
    "--editable",
    "--pre",
    "--index-url",
    "--find-links",
    "=",
]
LINES += [" ", "  ", "\n", "\n", "\r", "\x0c", "\x1c", "\u2028", "\\\n", "\\ \n", " # ", "#", ";", '"', "'", "\\", "@ "]
LINES += ["file:", "FILE:", "file://", "//localhost", "https://u:p@h/", "git+", "a://", "%2e%2e", "%2f", "..", ".", "/"]
LINES += [
    "link",
    "more.txt",
    "inner.txt",
    "pkg",
    "numpy",
    "numpy==1.0",
    "[all]",
    "${HOME}",
    "/etc/passwd",
    "../outside",
]
LINES += ["link\n", "-r link\n", "-r more.txt\n", "../outside/secret.txt", "out/secret.txt"]


@st.composite
def spliced(draw: st.DrawFn, base: str, pieces: list[str]) -> bytes:
    """A text into which pieces are put, and from which some are cut."""
    text = base
    for _ in range(draw(st.integers(1, 8))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 30)))
        text = text[:start] + draw(st.sampled_from(pieces) | st.text(max_size=5)) + text[end:]
    return text.encode(errors="surrogatepass")


def lines(pieces: list[str]) -> st.SearchStrategy[bytes]:
    """Lines made of pieces."""
    return st.lists(st.sampled_from(pieces), max_size=14).map(lambda parts: "".join(parts).encode())


@pytest.fixture(scope="module")
def checkout(folder: Path) -> Path:
    """A repository's folder with files to refer to, links out of it, and a file outside that nobody may read."""
    made = folder / "checkout"
    for name, text in {
        "checkout/more.txt": "-r inner.txt\n",
        "checkout/inner.txt": "numpy\n",
        "checkout/%2e%2e/outside/secret.txt": "six\n",
        "checkout/a:/link": "six\n",
        "checkout/..'": "six\n",
        "checkout/pkg/setup.py": "",
        "checkout/pkg/code.py": "",
        "checkout/setup.py": "",
        "outside/secret.txt": "six\n",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (made / "link").symlink_to("../outside/secret.txt")
    (made / "out").symlink_to("../outside")
    return made


def read_any(checkout: Path, name: str, data: bytes) -> EnvironmentFile | None:
    """The environment file of these bytes, or None for one that is refused as its reader says."""
    (checkout / name).write_bytes(data)
    try:
        assert find_environment_file(checkout) == name
        file = read_environment_file(checkout, name)
    except EnvironmentFileError as error:
        told(error)
        assert error.message.isprintable() and not re.search(r"[A-Za-z]\w*:/+u:p@", error.message)
        return None
    finally:
        (checkout / name).unlink()
    for path, _ in file.files:
        assert checkout in (checkout / path).resolve().parents, path
    assert len(file.fingerprint()) == 16
    assert EnvironmentFile.from_json(json.loads(json.dumps(file.to_json()))) == file
    assert sum(map(len, (*file.pip, *file.dependencies, *file.channels))) < 1_100_000
    return file


@FUZZ
@given(data=st.one_of(spliced(CONDA, PIECES), lines(PIECES), damaged(CONDA.encode()), st.binary(max_size=300)))
@example(data=b"name: &a " + b"x" * 100_000 + b"\ndependencies:\n" + b"- *a\n" * 9_000)
def test_any_conda_file(data: bytes, checkout: Path) -> None:
    """An environment file is read, with a fingerprint and nothing from outside, or an EnvironmentFileError."""
    (checkout / "link").unlink()  # `-e .` would be refused for it
    (checkout / "out").unlink()
    try:
        read_any(checkout, CONDA_FILE, data)
    finally:
        (checkout / "link").symlink_to("../outside/secret.txt")
        (checkout / "out").symlink_to("../outside")


@FUZZ
@given(
    data=st.one_of(lines(LINES), spliced("numpy\n-r more.txt\n./pkg\n-c inner.txt\n", LINES), st.binary(max_size=200))
)
@example(data=b"--pre -r link\n")
@example(data=b"--requirem link\n")
@example(data=b"-r a://link/../../link\n")
@example(data=b"-r file:%2e%2e/outside/secret.txt\n")
@example(data=b"-r ${HOME}/x\n")
@example(data=b"-r link x\n")
@example(data=b"numpy # \\\n-r link\n")
@example(data=b"--pre \\ \n-r link\n")
def test_any_requirements_file(data: bytes, checkout: Path) -> None:
    """A requirements file is read or an EnvironmentFileError; of one that is read, pip's own parser opens no file
    outside the repository."""
    file = read_any(checkout, REQUIREMENTS_FILE, data)
    if file is None:
        return
    parser = pytest.importorskip("pip._internal.req.req_file")
    from pip._internal.exceptions import PipError

    opened: list[str] = []
    original = parser.get_file_content

    def record(url: str, *more: Any, **options: Any) -> Any:
        opened.append(url)
        if "://" in url and not url.lower().startswith("file:"):
            return url, ""
        return original(url, *more, **options)

    start = checkout / "start.in"
    start.write_text("".join(f"{line}\n" for line in file.pip), encoding="utf-8")
    try:
        with mock.patch.object(parser, "get_file_content", record):
            list(parser.parse_requirements(str(start), session=mock.Mock()))
    except (PipError, ValueError, OSError, SystemExit):
        pass
    finally:
        start.unlink()
    for name in opened:
        local = name if "://" not in name else ""
        assert not name.lower().startswith("file:") or "outside" not in name, name
        assert not local or "/outside/" not in os.path.realpath(local), name
        assert not local or os.path.realpath(local) != "/etc/passwd", name


# ------------------------------------------------------------------------------------------------ files of the store

KERNEL = Kernel(
    name="venv-a",
    app="a",
    label="A",
    repository="https://host/o/a",
    checkout="a",
    commit="a" * 40,
    environment_file=CONDA_FILE,
    fingerprint="0123456789abcdef",
    resources="venv-a",
)
INDEX = Index(1.0, (KERNEL,), (CatalogState("/x", 1.0, 1),), (Problem("a", "b"),))


@FUZZ
@given(data=documents({"version": 1, **asdict(INDEX)}))
def test_any_index(data: bytes, folder: Path) -> None:
    """An index is read, each kernel's paths stay below the store, and it can be written again; or a ValueError."""
    path = folder / "index.json"
    path.write_bytes(data)
    try:
        index = read_index(path)
    except ValueError as error:
        assert 0 < len(str(error)) < MESSAGE_LIMIT + 50_000
        return
    for kernel in index.kernels:
        for part in (kernel.checkout, kernel.environment_file, kernel.name):
            assert part not in ("", ".", "..") and not set(part) & set("/\0")
    write_index(path, index)
    assert read_index(path) == index


PROGRESS = {**asdict(Progress("venv-a", "0123456789abcdef", total=3, done=1, bytes_done=5, bytes_total=10))}
PROGRESS |= {"phase": "Solving", "error": "unsolvable", "ended": 5.0, "durations": {"solve": 1.5}}


@FUZZ
@given(data=documents(PROGRESS))
def test_any_progress(data: bytes, folder: Path) -> None:
    """A progress file gives a fraction, a sentence and a failure of bounded size, or counts as none."""
    path = folder / "progress.json"
    path.write_bytes(data)
    progress = read_progress(path)
    if progress is not None:
        assert 0 <= progress.fraction <= 1
        assert len(progress.sentence()) < DETAIL_LIMIT * 2 + 2_000
        failure = progress.failure()
        assert failure is None or len(str(failure)) < DETAIL_LIMIT * 4 + 10


RECORD = asdict(
    Record(
        "venv-a",
        "0123456789abcdef",
        "rattler 1",
        activation={"A": "b"},
        path=["/x/bin"],
        variables={"C": "d"},
        durations={"solve": 1.5},
        packages=[{"name": "x", "version": "1"}],
    )
)


@FUZZ
@given(data=documents(RECORD))
def test_any_marker(data: bytes, folder: Path) -> None:
    """A marker gives an environment that a process could be started with, or is a ValueError."""
    generation = Generation(folder / "prefix", "0123456789abcdef", 1)
    generation.marker.parent.mkdir(parents=True, exist_ok=True)
    generation.marker.write_bytes(data)
    try:
        record = generation.record()
    except ValueError:
        return
    env = launch_environment(record.facts(generation.path), {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/x"})
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in env.items())
    assert not any("\0" in text for pair in env.items() for text in pair)
    generation.publish(record)


def request_of(settings: Sepal) -> dict[str, Any]:
    """A build request as it is written."""
    values = settings.to_json()
    return {"kernel": asdict(KERNEL), "checkout": "/c", "store": "/s", "settings": values, "force": False}


@FUZZ
@given(data=documents(request_of(Sepal(store="/s"))))
def test_any_build_request(data: bytes, folder: Path) -> None:
    """A build request is read, with a kernel whose paths stay below the store, or it is a SettingsError."""
    path = folder / "request.json"
    path.write_bytes(data)
    try:
        request = Request.read(path)
    except SettingsError as error:
        assert error.message
        return
    assert "/" not in request.kernel.name and len(request.kernel.fingerprint) == 16
    assert Path(request.settings.store).is_absolute()


# ------------------------------------------------------------------------------------------------------- ETags

META = {"source": "https://host/apps.json", "fetched": 1.0, "etag": '"one"'}


@pytest.fixture(scope="module")
def answers() -> Any:
    """A server that always has the catalog `a`."""
    with serve(always(catalog_of("a"), ETag='"one"')) as server:
        yield server


@FUZZ
@given(data=documents(META))
def test_any_metadata(data: bytes, folder: Path, answers: Any) -> None:
    """Whatever lies beside a catalog's copy, the catalog is fetched, and with the server away its copy is used."""
    place = Place(folder / "place")
    place.fetch(answers.url)
    (meta,) = place.store.catalogs.glob("*.meta")
    meta.write_bytes(data)
    fetched = place.fetch(answers.url)
    assert fetched.catalog and not fetched.state.error
    meta.write_bytes(data)
    json.dumps(asdict(fetched.state), allow_nan=False)


@FUZZ
@given(etag=st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=40) | ODD)
def test_any_etag(etag: str, folder: Path, answers: Any) -> None:
    """Whatever ETag a server sends, the next request is one that it can answer."""
    place = Place(folder / "place")
    kept: Callable[[Any], None] = answers.answer
    answers.answer = always(
        catalog_of("a"), ETag=etag.encode("latin-1", "replace").decode("latin-1").replace("\n", " ")
    )
    try:
        for _ in range(2):
            fetched = place.fetch(answers.url)
            assert fetched.catalog and not fetched.state.error
    finally:
        answers.answer = kept
