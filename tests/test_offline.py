"""A site without internet: every outside thing is redirected to a place of its own, as the deployment page says."""

from __future__ import annotations

import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Site

from sepal_provisioner import audit
from sepal_provisioner.errors import PipError

FILE = "channels: [conda-forge, defaults]\ndependencies:\n- python\n- pip\n- pip:\n  - lake-levels>=2\n"


class Index(SimpleHTTPRequestHandler):
    """A wheel index as a static web server gives it: PEP 503's pages are index.html files of folders."""

    asked: list[str]

    def __init__(self, asked: list[str], *arguments: object, **options: object) -> None:
        self.asked = asked
        super().__init__(*arguments, **options)  # type: ignore[arg-type]

    def log_message(self, *arguments: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What pip and uv asked a wheel index of one package for, the only one that they know."""
    page = tmp_path / "index" / "simple" / "lake-levels"
    page.mkdir(parents=True)
    wheel = page / "lake_levels-2.1-py3-none-any.whl"
    info = "lake_levels-2.1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("lake_levels.py", "LEVEL = 1134.5\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: lake-levels\nVersion: 2.1\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in (*archive.namelist(), f"{info}/RECORD")))
    (page / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel.name}">{wheel.name}</a>\n')
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    asked: list[str] = []
    handler = partial(Index, asked, directory=str(tmp_path / "index"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/simple"
        for name in ("PIP_INDEX_URL", "UV_INDEX_URL"):
            monkeypatch.setenv(name, url)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("UV_NO_CONFIG", "1")
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there: whoever wants to go out, fails
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "127.0.0.1")
        yield asked
        server.shutdown()


def test_everything_comes_from_the_sites_own_places(conda_site: Site, index: list[str]) -> None:
    """A repository on a public host, redirected by git; channels from a mirror, `defaults` left out;
    a pip package from a wheel index: the environment is built, and nothing is asked of the internet. A package that the
    index doesn't have is told as such."""
    conda_site.options["repository_schemes"] = ["https", "file"]
    conda_site.mirrors = {**conda_site.mirrors, "defaults": ""}
    conda_site.add("lakes", {"sepal_environment.yml": FILE})
    conda_site.add("rivers", {"sepal_environment.yml": FILE.replace("lake-levels", "river-levels")})
    for app in conda_site.apps:
        app["repository"] = f"https://git.example.org/fao/{app['id']}"
    conda_site.write()
    redirected = f'[url "file://{conda_site.root}/repositories/"]\n\tinsteadOf = https://git.example.org/fao/\n'
    (Path(os.environ["HOME"]) / ".gitconfig").write_text(redirected)
    conda_site.sync()
    generation = conda_site.build("venv-lakes")
    code = "import lake_levels; print(lake_levels.LEVEL)"
    done = subprocess.run([generation.python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1134.5\n"
    assert any("lake-levels" in line for line in index)
    with pytest.raises(PipError):
        conda_site.build("venv-rivers")
    assert [line["result"] for line in audit.lines(conda_site.store.root)] == ["ok", "pip-failed"]
