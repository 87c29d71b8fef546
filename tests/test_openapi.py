"""The API does what its description says: every operation, asked with what is allowed and with what is not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed (PyPI: schemathesis)")

import schemathesis
from conftest import Site, mirrors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi
from server import TOKEN, JupyterServer
from test_extension import EXTENSION, SMALL

from sepal_provisioner.extension.handlers import HANDLERS
from sepal_provisioner.extension.stream import EventsHandler

CHECKS = [
    schemathesis.checks.not_a_server_error,
    openapi.response_schema_conformance,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
]
HEADERS = {"Authorization": f"token {TOKEN}"}
EXAMPLES = 8  # for each operation
NAMES = ("venv-ready", "VENV-Ready", "unbuilt")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, channel: Path) -> Iterator[JupyterServer]:
    """A server with a kernel that is built and one that is not."""
    site = Site(tmp_path_factory.mktemp("openapi"), mirrors(channel))
    site.add("ready", {"sepal_environment.yml": SMALL.format("")})
    site.add("unbuilt", {"sepal_environment.yml": SMALL.format("=1.*")})
    site.sync()
    site.build("venv-ready")
    with JupyterServer(site.config(**EXTENSION)) as running:
        yield running


@pytest.fixture(scope="module")
def description(server: JupyterServer) -> dict[str, Any]:
    """The document as the server gives it."""
    return server.get("/sepal/api/openapi.json")


def test_every_operation_keeps_to_its_description(server: JupyterServer) -> None:
    """No answer is a fault of the server, and each has a status, a content type and a shape that are described; half of
    the requests are ones that the description doesn't allow, and half name kernels that there are."""
    description = schemathesis.openapi.from_url(f"{server.url}/sepal/api/openapi.json", headers=HEADERS)
    seen: Counter[tuple[str, int]] = Counter()
    for found in description.exclude(path="/events").get_all_operations():  # which never ends
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
                continue  # nothing in it can be wrong

            @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
            @given(case=operation.as_strategy(generation_mode=mode), known=st.sampled_from(NAMES), real=st.booleans())
            def ask(case: Any, known: str, real: bool) -> None:
                if real and "name" in case.path_parameters:
                    case.path_parameters["name"] = known
                answer = case.call_and_validate(headers=HEADERS, checks=CHECKS)
                seen[case.operation.label, answer.status_code] += 1

            ask()
    paths = server.get("/sepal/api/openapi.json")["paths"].items()
    described = {f"{method.upper()} {path}" for path, methods in paths for method in methods if method != "parameters"}
    # schemathesis leaves out the description itself, which it has read already.
    assert {label for label, _ in seen} == described - {"GET /events", "GET /openapi.json"}
    assert {label for label, status in seen if status < 300} >= {"GET /kernels/{name}", "POST /kernels/{name}/build"}
    assert {status for _, status in seen} >= {200, 202, 400, 404}


def test_every_route_is_described(description: dict[str, Any], server: JupyterServer) -> None:
    """The description names each route with just the methods that it has, and this server's own address."""
    assert description["servers"] == [{"url": "/sepal/api"}] and server.url
    routes = dict([*HANDLERS, (r"/sepal/api/events", EventsHandler)])
    described = {}
    for path, operations in description["paths"].items():
        pattern = "/sepal/api" + re.sub(r"\{name\}", "([^/]+)", path)
        described[pattern] = {method for method in operations if method in ("get", "post", "put", "delete", "patch")}
    own = {
        pattern: {method for method in ("get", "post", "put", "delete", "patch") if method in vars(handler)}
        for pattern, handler in routes.items()
    }
    assert described == own


def test_no_key_is_left_undescribed(description: dict[str, Any], server: JupyterServer) -> None:
    """What the list says of a kernel, and the list itself, have the keys of their schemas and no others."""
    document, schemas = server.get("/sepal/api/kernels"), description["components"]["schemas"]
    assert set(document) == set(schemas["Kernels"]["properties"]) == set(schemas["Kernels"]["required"])
    for kernel in document["kernels"]:
        assert set(kernel) == set(schemas["Kernel"]["properties"]) == set(schemas["Kernel"]["required"])
    built = document["kernels"][0]["build"]
    assert set(built) == set(schemas["Build"]["properties"]) == set(schemas["Build"]["required"])
