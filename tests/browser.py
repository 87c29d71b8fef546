"""A real JupyterLab in a real Chromium, behind a real proxy: opening notebooks, running cells, seeing what is there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conftest import Site
from proxy import Proxy
from server import TOKEN, JupyterServer, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Read now: a test sees no SEPAL_… variable of the user's.
ARTIFACTS = Path(os.environ.get("SEPAL_TEST_ARTIFACTS") or Path(__file__).resolve().parents[1] / "test-artifacts")

PATIENCE = 120  # seconds that anything on a page may take: machines that run tests are busy
SWITCHES = (
    "--no-sandbox",  # the pages are our own; as root, or without user namespaces, there is no sandbox
    "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
# What a person would have seen between two looks of ours.
RECORDER = """
window.seen = {dialogs: [], percents: []};
new MutationObserver(() => {
    for (const dialog of document.querySelectorAll('.jp-Dialog')) {
        const text = dialog.textContent.trim();
        if (text && !seen.dialogs.includes(text)) seen.dialogs.push(text);
    }
    const bar = document.querySelector('.jp-OutputArea [role=progressbar]');
    const percent = bar && Number(bar.getAttribute('aria-valuenow'));
    if (bar && seen.percents.at(-1) !== percent) seen.percents.push(percent);
}).observe(document, {childList: true, subtree: true, attributes: true, attributeFilter: ['aria-valuenow']});
"""
# The lowest contrast between a text below an element and what is behind it, by WCAG's formula, with opacity counted in.
CONTRAST = """
(root) => {
    const parse = (css) => {
        const [r, g, b, a = 1] = css.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = (top, below, alpha) => [0, 1, 2].map((i) => top[i] * alpha + below[i] * (1 - alpha));
    const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const color = parse(getComputedStyle(e).backgroundColor);
            if (color[3] > 0) return color;
        }
        return [255, 255, 255, 1];
    };
    const ratios = [];
    for (const element of [root, ...root.querySelectorAll('*')]) {
        const words = [...element.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
        if (!words.length) continue;
        let opacity = 1;
        for (let e = element; e; e = e.parentElement) opacity *= Number(getComputedStyle(e).opacity);
        const below = behind(element);
        const color = parse(getComputedStyle(element).color);
        const [a, b] = [light(over(color, below, color[3] * opacity)), light(below.slice(0, 3))].sort((x, y) => y - x);
        ratios.push((a + 0.05) / (b + 0.05));
    }
    return Math.min(...ratios);
}
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser process, with a home folder of its own."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(SWITCHES), env={**os.environ, "HOME": home}, timeout=PATIENCE * 1000
        )
        try:
            yield browser
        finally:
            browser.close()


def picture(page: Page, name: str) -> None:
    """Keep what a page shows as `test-artifacts/<name>.png`."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png")


def want_no_news(server: JupyterServer, base: str = "") -> None:
    """Let JupyterLab not ask whether somebody wants news, which would cover a corner of every picture."""
    settings = f"{base}/lab/api/settings/@jupyterlab/apputils-extension:notification"
    status, answer = server.request("PUT", settings, {"raw": '{"fetchNews": "false"}'})
    assert status == 204, answer


class Lab:
    """A JupyterLab behind a proxy, and the windows that people open on it; use it as a context manager."""

    def __init__(self, site: Site, browser: Browser, **config: Any) -> None:
        self.site, self._browser = site, browser
        self._config = {"Sepal.refresh_interval": 0, **config}

    def __enter__(self) -> Lab:
        with contextlib.ExitStack() as stack:
            config = self.site.config(**self._config)
            self.server = stack.enter_context(JupyterServer(config, app="lab"))
            self.proxy = stack.enter_context(Proxy(self.site.root.parent, self.server.port))
            want_no_news(self.server)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def write_notebook(self, kernel: str, *cells: str, name: str = "work.ipynb") -> str:
        """Put a notebook for a kernel beside the server's configuration; returns its name."""
        write_notebook(self.site.root / name, kernel, *cells)
        return name

    @contextlib.contextmanager
    def window(self, path: str = "", *, name: str = "window") -> Iterator[Window]:
        """A browser window with nobody's cookies: on a notebook, or on the launcher. One that fails is kept as a
        picture."""
        context: BrowserContext = self._browser.new_context(viewport={"width": 1200, "height": 860})
        context.set_default_timeout(PATIENCE * 1000)
        context.add_init_script(RECORDER)
        window = Window(context.new_page(), self.site.root)
        try:
            # A workspace of its own: the tabs of another window are not opened in this one.
            place = f"/lab/workspaces/{uuid.uuid4().hex}{path and f'/tree/{path}'}"
            window.page.goto(f"{self.proxy.url}{place}?token={TOKEN}")
            if path:
                window.wait_for_kernel()
            yield window
        except BaseException:
            with contextlib.suppress(Exception):
                window.picture(f"failed-{name}")
            raise
        finally:
            context.close()


class Window:
    """One person's window: JupyterLab with one notebook."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self._folder = page, folder

    # ------------------------------------------------------------------------------------------- what they do

    def open_tile(self, label: str) -> None:
        """Click the launcher's notebook tile of a kernel."""
        tiles = self.page.locator(".jp-Launcher-section", has=self.page.get_by_role("heading", name="Notebook"))
        tiles.locator(".jp-LauncherCard", has_text=label).click()
        self.wait_for_kernel()

    def type_and_run(self, *cells: str) -> None:
        """Write cells at the end of the notebook, as fast as a person never could, and run each."""
        for cell in cells:
            count = self.cells.count()
            self.cells.last.locator(".cm-content").click()
            self.page.keyboard.insert_text(cell)
            self.page.keyboard.press("Shift+Enter")
            self.cells.nth(count).wait_for()

    def run(self, number: int) -> None:
        """Run the n-th cell, from 0."""
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")

    def run_all(self) -> None:
        """Run every cell."""
        self.menu("Run", "Run All Cells")

    def menu(self, *path: str) -> None:
        """Choose from the menu bar: a menu, an entry, and an entry of that where it is a menu too."""
        self.page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{path[0]}$")).click()
        for entry in path[1:]:
            self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{re.escape(entry)}$")).click()

    def interrupt(self) -> None:
        """Press the stop button."""
        self.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()

    def restart(self) -> None:
        """Restart the kernel from the menu, and say yes."""
        self.menu("Kernel", "Restart Kernel…")
        self.accept()

    def accept(self) -> None:
        """Press the main button of the dialog that comes up."""
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.locator(".jp-Dialog").wait_for(state="detached")

    def reload(self, state: str = "Idle") -> None:
        """Load the page anew, as from the browser's button; the kernel is in this state then."""
        self.page.reload()
        self.wait_for_kernel(state)

    def save(self, name: str) -> list[dict[str, Any]]:
        """Save the notebook and read it from the disk: its code cells that hold something."""
        file = self._folder / name
        before = file.stat().st_mtime_ns
        rename = self.page.locator(".jp-Dialog .jp-mod-accept")  # asked once about a notebook without a name
        self.page.keyboard.press("Control+s")

        def saved() -> bool:
            if rename.is_visible():
                rename.click()
            return file.stat().st_mtime_ns != before and bool(code_cells(file))

        wait_for(saved, "the notebook to be saved", page=self.page)
        return code_cells(file)

    def picture(self, name: str) -> None:
        """Keep what is seen."""
        picture(self.page, name)

    # ------------------------------------------------------------------------------------------ what they see

    @property
    def cells(self) -> Locator:
        """The notebook's code cells."""
        return self.page.locator(".jp-Notebook .jp-CodeCell")

    def cell(self, number: int) -> Locator:
        """The n-th code cell, from 0."""
        return self.cells.nth(number)

    def output(self, number: int) -> Locator:
        """What is shown under the n-th cell."""
        return self.cell(number).locator(".jp-Cell-outputArea")

    @property
    def bar(self) -> Locator:
        """The progress bar."""
        return self.page.locator(".jp-OutputArea [role=progressbar]")

    @property
    def percents(self) -> list[int]:
        """Every percentage that was shown since the page was loaded, repetitions left out."""
        return self.page.evaluate("seen.percents")

    @property
    def dialogs(self) -> list[str]:
        """The text of every dialog that came up since the page was loaded."""
        return self.page.evaluate("seen.dialogs")

    def wait_for_output(self, number: int, text: str, seconds: float = PATIENCE) -> None:
        """Until the n-th cell shows this text."""
        self.output(number).get_by_text(text).first.wait_for(timeout=seconds * 1000)

    def wait_for_kernel(self, state: str = "Idle") -> None:
        """Until the status bar says of the kernel that it is `Idle` or `Busy`.

        The toolbar's circle looks idle before there is a kernel, and a cell that is run then is lost.
        """
        self.page.locator("#jp-main-statusbar").get_by_text(re.compile(rf"\(venv\) .* \| {state}$")).first.wait_for()


def write_notebook(path: Path, kernel: str, *cells: str) -> None:
    """A notebook file for a kernel."""
    document = {
        "cells": [
            {
                "cell_type": "code", "id": f"cell-{number}", "metadata": {}, "execution_count": None, "outputs": [],
                "source": cell,
            }
            for number, cell in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip
    path.write_text(json.dumps(document), encoding="utf-8")


def code_cells(path: Path) -> list[dict[str, Any]]:
    """The code cells of a notebook file that hold something; none while it is being written."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):
        return []
    return [cell for cell in cells if cell["cell_type"] == "code" and cell["source"]]


def output_text(cell: dict[str, Any]) -> list[str]:
    """The outputs of a saved cell as plain text, one for each."""
    found = []
    for output in cell["outputs"]:
        text = output.get("text") or output.get("data", {}).get("text/plain") or output.get("traceback", [])
        found.append(text if isinstance(text, str) else "".join(text))
    return found


def wait_for(condition: Callable[[], Any], what: str, *, seconds: float = PATIENCE, page: Page | None = None) -> Any:
    """Look until the condition holds; a page goes on living meanwhile."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        if page is not None:
            page.wait_for_timeout(100)
        else:
            time.sleep(0.1)
    return found


class Voila:
    """A Voilà process of its own behind a proxy; its configuration is the server's and what names our manager to it."""

    def __init__(self, site: Site) -> None:
        self._folder, self._port = site.root, free_port()
        config = site.config(**{"Sepal.refresh_interval": 0}).read_text()
        manager = "sepal_provisioner.SepalKernelSpecManager"
        config += f"c.VoilaConfiguration.kernel_spec_manager_class = {manager!r}\n"
        configuration = Path(os.environ["JUPYTER_CONFIG_DIR"])  # the test's own; not beside the notebooks, where
        configuration.mkdir(parents=True, exist_ok=True)  # a voila.py would be imported in place of Voilà itself
        (configuration / "voila.py").write_text(config)
        self._log = self._folder / "voila.log"

    def __enter__(self) -> Voila:
        command = [sys.executable, "-m", "voila", "--no-browser", f"--port={self._port}", "--Voila.ip=127.0.0.1"]
        with self._log.open("wb") as stream:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
            )
        try:
            wait_for(lambda: listens(self._port) or self._process.poll() is not None, "Voilà to start", seconds=60)
            assert self._process.poll() is None, self.printed()
            self._proxy = Proxy(self._folder.parent, self._port).__enter__()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._proxy.__exit__()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def page_of(self, notebook: str) -> str:
        """The address of a notebook's page."""
        return f"{self._proxy.url}/voila/render/{notebook}"

    def printed(self) -> str:
        """Voilà's log so far."""
        return self._log.read_text(errors="replace")


def listens(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
