"""The dashboard in a real browser: what it shows, what its buttons do, in three languages, narrow and wide."""

from __future__ import annotations

import json
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (PyPI: playwright)")

from browser import CHROMIUM, CONTRAST, PATIENCE, chromium, picture, want_no_news
from conftest import Site
from server import TOKEN, JupyterServer
from slow import slow_channel
from test_extension import EXTENSION, READER, SMALL

from sepal_provisioner.extension.languages import FOLDER, LANGUAGES, choose, words
from sepal_provisioner.generation import Generation, Record
from sepal_provisioner.index import CatalogState, Index, Kernel, write_index
from sepal_provisioner.progress import Phase, Reporter

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: chromium)")
BUILT = 1_780_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser process."""
    with chromium() as running:
        yield running


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the dashboard of a server in a window of its own; any message of its console is a failure."""
    contexts, said = [], []

    def open_page(server: JupyterServer, width: int = 1280, query: str = "", base: str = "/", **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 860}, **options)
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{server.url}{base}sepal?token={TOKEN}{query}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not [text for text in said if "ERR_CONNECTION" not in text and "ERR_INCOMPLETE" not in text], said


def stock(site: Site, count: int) -> None:
    """An index of `count` kernels in every state, without any repository: what a page of them looks like."""
    kernels = []
    for number in range(count):
        name, label = (
            f"venv-app-{number:03}",
            f"Forest change {number}" if number % 7 != 3 else f"Évaluation 森 {number} & <b>",
        )
        kernel = Kernel(
            name, name, label, f"https://example.org/forest/app-{number:03}", f"app-{number:03}", f"{number:040x}",
            "sepal_environment.yml", f"{number:016x}",
            problem="sepal_environment.yml, line 3: nothing is known of it" if number == 9 else "",
        )  # fmt: skip
        kernels.append(kernel)
        folder, state = site.store.folder(name), number % 4
        if state in (0, 1):
            fingerprint = kernel.fingerprint if state == 0 else "f" * 16
            generation = Generation(folder / f"{fingerprint}-1", fingerprint, 1)
            record = Record(name, fingerprint, "rattler 0.28", built=BUILT, seconds=90, size=1_400_000_000 + number)
            generation.publish(record)
        elif state == 2:
            reporter = Reporter(folder / f"{kernel.fingerprint}.progress.json", name, kernel.fingerprint)
            reporter.phase(Phase.SOLVE)
            from sepal_provisioner.errors import SolveError

            reporter.end(SolveError("There is no gdal 9 for python 3.12. Ask for another version of gdal."))
    write_index(site.store.index_path, Index(time.time(), tuple(kernels), (CatalogState(str(site.catalog)),)))


@needs_browser
@pytest.mark.parametrize("count", [0, 3, 300])
def test_none_some_and_many(site: Site, open_page: Callable[..., Page], count: int) -> None:
    """No, three and three hundred kernels, wide and narrow, light and dark: nothing is wider than the window, every
    text can be read, and search and filter find what they should."""
    stock(site, count)
    with JupyterServer(site.config(**EXTENSION)) as server:
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                page = open_page(server, width, color_scheme=scheme)
                page.locator("#count").wait_for(state="attached")
                picture(page, f"dashboard-{count}-{width}-{scheme}")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                if count < 300:
                    for part in ("header", "main"):
                        assert page.evaluate(CONTRAST, page.query_selector(part)) >= 4.5
                assert page.locator("#rows tr").count() == count
                assert page.locator("#none").is_visible() == (count == 0)
        if count == 300:
            page.get_by_label("Search").fill("CHANGE 29")
            assert page.locator("#rows tr:visible").count() == 9  # 29 and 291 to 299 but 297
            page.locator("#filter").select_option("missing")
            assert page.locator("#count").inner_text() == "3 of 300 kernels"
            page.get_by_label("Search").fill("nowhere")
            assert page.locator("#no-match").is_visible()


@needs_browser
def test_building_watching_and_cancelling(channel: Path, tmp_path: Path, open_page: Callable[..., Page]) -> None:
    """Buttons and what follows, by keyboard: a build shows its progress without a reload, is cancelled after a
    question, and built to its end; its log is read; a second version is rolled back to."""
    with slow_channel(channel, 300_000) as (mirrors, line):
        site = Site(tmp_path / "site", mirrors)
        site.add("slow", {"sepal_environment.yml": SMALL.format("")}, label="Slow one")
        site.sync()
        config = site.config(**EXTENSION, **{"ServerApp.base_url": "/user/ada/"})
        with JupyterServer(config, base="/user/ada/") as server:
            page = open_page(server, base="/user/ada/")
            row = page.locator("#rows tr")
            page.get_by_role("button", name="Build: Slow one").press("Enter")
            page.get_by_role("progressbar", name="Build of Slow one").wait_for()
            row.get_by_text("Downloading").wait_for()
            assert page.evaluate("document.activeElement.closest('tr')?.dataset.name") == "venv-slow"
            assert page.locator("#said").inner_text() == "Slow one: Building"
            picture(page, "dashboard-building")
            page.get_by_role("button", name="Cancel: Slow one").press("Enter")
            page.locator("#ask").get_by_role("button", name="Cancel").click()
            row.get_by_text("build-cancelled").wait_for()
            line.open()
            page.get_by_role("button", name="Build: Slow one", exact=True).click()
            row.get_by_text("Ready").wait_for()
            page.get_by_role("button", name="Log: Slow one").click()
            page.locator("#log pre").get_by_text("# ready after").wait_for()
            picture(page, "dashboard-log")
            page.keyboard.press("Escape")
            page.get_by_role("button", name="Rebuild: Slow one").click()
            page.locator("#ask .main").click()
            page.get_by_role("button", name="Roll back: Slow one").click()
            page.locator("#ask .main").click()
            row.get_by_text("rolled back").wait_for()
            page.get_by_role("button", name="Use newest: Slow one").click()
            page.get_by_role("button", name="Roll back: Slow one").wait_for()


@needs_browser
def test_cleaning_up_asks_first(site: Site, open_page: Callable[..., Page]) -> None:
    """The plan is shown before anything goes; leaving the dialog changes nothing, agreeing removes what was shown."""
    stock(site, 4)
    gone = site.store.folder("venv-gone") / ("0" * 16 + "-1")
    (gone / "lib").mkdir(parents=True)
    (gone / "lib" / "file").write_bytes(b"x" * 3_000_000)
    with JupyterServer(site.config(**EXTENSION)) as server:
        page = open_page(server)
        page.get_by_role("button", name="Clean up…").click()
        page.locator("#prune").get_by_text("venv-gone").wait_for()
        picture(page, "dashboard-prune")
        page.keyboard.press("Escape")
        assert gone.exists()
        page.get_by_role("button", name="Clean up…").click()
        page.locator("#prune").get_by_role("button", name="Remove").click()
        page.locator("#said").get_by_text("freed").wait_for(state="attached")
        assert not gone.exists()


@needs_browser
def test_who_may_only_read_gets_no_buttons(site: Site, open_page: Callable[..., Page]) -> None:
    """For somebody whom the authorizer lets only read, the page has the log's buttons and a line that says why."""
    stock(site, 3)
    config = site.config(**EXTENSION)
    config.write_text(config.read_text() + READER)
    with JupyterServer(config) as server:
        page = open_page(server)
        assert page.get_by_text("You can look at everything here.").is_visible()
        assert set(page.locator("[data-action]:visible").all_inner_texts()) == {"Log"}


@needs_browser
def test_the_page_speaks_the_readers_language(site: Site, open_page: Callable[..., Page]) -> None:
    """The browser's language counts, a chosen one more; figures follow."""
    stock(site, 3)
    with JupyterServer(site.config(**EXTENSION)) as server:
        page = open_page(server, locale="fr-FR")
        assert page.get_by_role("heading", level=1).inner_text() == "Noyaux partagés"
        assert (
            page.locator("html").get_attribute("lang") == "fr" and "Go" in page.locator("data.bytes").first.inner_text()
        )
        page.get_by_role("link", name="ES").click()
        page.get_by_role("heading", level=1, name="Kernels compartidos").wait_for()


def test_all_languages_say_the_same() -> None:
    """Every language has the same keys with the same places to fill in, and none is empty."""
    assert {path.stem for path in FOLDER.glob("*.json")} == set(LANGUAGES)

    def places(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    shape = {key: places(text) for key, text in words("en").items()}
    for language in LANGUAGES:
        assert {key: places(text) for key, text in words(language).items()} == shape, language
        assert all(text.strip() for text in words(language).values())
        assert list(json.loads((FOLDER / f"{language}.json").read_text())) == list(words("en")), language


def test_the_language_is_chosen() -> None:
    """What was asked for, then the browser's weights, then English; nonsense is nothing."""
    assert choose("es", "fr") == "es"
    assert choose("xx", "de, fr-CA;q=0.8, es;q=0.9") == "es"
    assert choose("", "fr-FR,fr;q=0.9,en;q=0.8") == "fr"
    assert choose("", ";;q=,,") == choose("", "de;q=nan") == "en"


@needs_browser
def test_the_launcher_leads_to_the_dashboard(site: Site, browser: Browser) -> None:
    """JupyterLab's launcher has a tile that opens the dashboard in a page of its own, under the server's own path."""
    stock(site, 3)
    config = site.config(**{"ServerApp.base_url": "/user/ada/", "Sepal.refresh_interval": 0})
    with JupyterServer(config, app="lab", base="/user/ada/") as server, browser.new_context() as context:
        want_no_news(server, base="/user/ada")
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.goto(f"{server.url}/user/ada/lab?reset&token={TOKEN}")
        tile = page.locator(".jp-LauncherCard", has_text="Shared kernels")
        tile.locator("svg").wait_for()
        picture(page, "launcher")
        with context.expect_page() as opened:
            tile.click()
        opened.value.get_by_text("Forest change 1").first.wait_for()
        assert opened.value.url.startswith(f"{server.url}/user/ada/sepal")
