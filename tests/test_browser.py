"""What a person sees of a first start: a real JupyterLab in a real browser, behind a proxy that waits 20 seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (PyPI: playwright)")

from browser import (
    CHROMIUM,
    CONTRAST,
    PATIENCE,
    Lab,
    Voila,
    chromium,
    output_text,
    picture,
    wait_for,
    write_notebook,
)
from conftest import SMALL, Site, commit, mirrors
from proxy import NGINX, READ_TIMEOUT
from slow import SlowLine, slow_channel

from sepal_provisioner import locks
from sepal_provisioner.generation import Generation
from sepal_provisioner.store import State

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: chromium)"),
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx-light)"),
]

CRAWL = 150_000  # bytes a second: no download ends before the line is opened

SlowSite = Callable[..., tuple[Site, SlowLine]]
OpenLab = Callable[[Site], Lab]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser process; each window has cookies of its own."""
    with chromium() as running:
        yield running


@pytest.fixture
def lab_on(browser: Browser) -> OpenLab:
    """Starts a JupyterLab behind a proxy for a site."""
    return partial(Lab, browser=browser)


@pytest.fixture
def slow(channel: Path, tmp_path: Path) -> Iterator[SlowSite]:
    """Makes a site whose channel is behind a slow line, with an application for each environment file."""
    with ExitStack() as stack:

        def make(rate: float = CRAWL, **files: str) -> tuple[Site, SlowLine]:
            slow_mirrors, line = stack.enter_context(slow_channel(channel, rate))
            site = Site(tmp_path / "site", slow_mirrors)
            for name, text in files.items():
                site.add(name, {"sepal_environment.yml": text})
            site.sync()
            stack.callback(let_builds_end, site)
            stack.callback(line.open)
            return site, line

        yield make


def let_builds_end(site: Site) -> None:
    """Wait for the builds that still run: they are nobody's children."""
    for lock in site.store.root.glob("environments/*/*.lock"):
        with locks.exclusive(lock, timeout=PATIENCE, waiting_for="the build"):
            pass


def state(site: Site, name: str) -> State:
    """What a kernel's environment is like now."""
    return site.stores.observe(site.stores.find(name)[1]).state


def built_once(site: Site, name: str) -> Generation:
    """The one prefix that a kernel has, once it is ready."""
    wait_for(lambda: state(site, name) is State.READY, f"{name} to be ready")
    (only,) = site.store.generations(name)
    return only


def test_the_first_start_from_the_launcher(slow: SlowSite, lab_on: OpenLab) -> None:
    """A tile is clicked and three cells are run at once: a build of more than 45 seconds shows how far it is under the
    first one, one quiet line under the others, and then the three results. No dialog; only they are saved."""
    site, _ = slow(480_000, small=SMALL)
    with lab_on(site) as lab, lab.window(name="launcher") as window:
        window.open_tile("App small")
        window.type_and_run("import sys\nprint('from', sys.prefix)", "print('second result')\n2", "7 * 11 * 13")
        window.bar.wait_for()
        window.wait_for_output(0, "Preparing the environment of (venv) App small")
        for number in (1, 2):
            quiet = f"Waits for the environment; runs as number {number + 1} when it is ready."
            window.wait_for_output(number, quiet)
            assert window.output(number).inner_text().strip() == quiet
        wait_for(lambda: window.percents[-1] >= 25, "a quarter of the bar", page=window.page)
        window.picture("progress")
        window.wait_for_output(2, "1001")
        window.wait_for_kernel()
        prefix = built_once(site, "venv-small")
        assert prefix.record().seconds > 45 > READ_TIMEOUT
        percents = window.percents
        assert percents == sorted(percents) and len(percents) > 20 and percents[-1] <= 100
        window.picture("results")
        assert window.dialogs == []
        saved = window.save("Untitled.ipynb")
        assert [output_text(cell) for cell in saved] == [[f"from {prefix.path}\n"], ["second result\n", "2"], ["1001"]]
        assert [cell["execution_count"] for cell in saved] == [1, 2, 3]
        assert "upstream timed out" not in lab.proxy.errors()


def test_a_reload_while_it_builds(slow: SlowSite, lab_on: OpenLab) -> None:
    """Whoever reloads the page, with the progress saved in the notebook, runs the cells again, sees the progress again
    and gets the results; what is saved then holds nothing else."""
    site, line = slow(small=SMALL)
    with lab_on(site) as lab:
        notebook = lab.write_notebook("venv-small", "print('first result')", "print('second result')")
        with lab.window(notebook, name="reload") as window:
            window.run_all()
            window.bar.wait_for()
            assert "Preparing" in output_text(window.save(notebook)[0])[0]
            window.reload("Busy")
            window.picture("reloaded")
            window.run_all()
            wait_for(lambda: len(window.percents) > 1, "the bar to move", page=window.page)
            window.picture("reloaded-and-run-again")
            line.open()
            window.wait_for_output(0, "first result")
            window.wait_for_output(1, "second result")
            window.wait_for_kernel()
            assert [output_text(cell) for cell in window.save(notebook)] == [["first result\n"], ["second result\n"]]
            assert window.dialogs == []


def test_two_windows_on_one_kernel(slow: SlowSite, lab_on: OpenLab) -> None:
    """Two people who open the same notebook while its kernel waits both see the progress, and each gets a result."""
    site, line = slow(small=SMALL)
    with lab_on(site) as lab:
        notebook = lab.write_notebook("venv-small", "print('first result')", "print('second result')")
        with lab.window(notebook, name="window-1") as one, lab.window(notebook, name="window-2") as two:
            one.run(0)
            one.bar.wait_for()
            two.run(1)
            two.bar.wait_for()
            assert len(lab.server.get("/api/kernels")) == 1
            line.open()
            one.wait_for_output(0, "first result")
            two.wait_for_output(1, "second result")
            for window in (one, two):
                window.wait_for_kernel()
                assert window.bar.count() == 0 and window.dialogs == []


def test_two_servers_on_one_store(slow: SlowSite, lab_on: OpenLab) -> None:
    """Who starts a kernel that another server builds already is told who began, and both get their result from one
    build."""
    site, line = slow(small=SMALL)
    with lab_on(site) as first, lab_on(site) as second:
        cell = "import sys\nprint('from', sys.prefix)"
        mine, theirs = (
            lab.write_notebook("venv-small", cell, name=f"{lab.server.port}.ipynb") for lab in (first, second)
        )
        with first.window(mine, name="server-1") as one, second.window(theirs, name="server-2") as two:
            for window in (one, two):
                window.run(0)
                window.bar.wait_for()
            two.wait_for_output(0, "Started by")
            two.picture("started-by")
            assert "Started by" not in one.output(0).inner_text()
            line.open()
            prefix = built_once(site, "venv-small")
            for window in (one, two):
                window.wait_for_output(0, f"from {prefix.path}")


def test_an_interrupt_ends_the_wait_of_the_cells(slow: SlowSite, lab_on: OpenLab) -> None:
    """The stop button gives the waiting cells a KeyboardInterrupt, the build goes on, and the next run gets its
    result."""
    site, line = slow(small=SMALL)
    with lab_on(site) as lab:
        notebook = lab.write_notebook("venv-small", "print('first result')", "print('second result')")
        with lab.window(notebook, name="interrupt") as window:
            window.run_all()
            window.bar.wait_for()
            window.interrupt()
            for number in (0, 1):
                window.wait_for_output(number, "KeyboardInterrupt: the cell no longer waits.")
            window.wait_for_kernel()
            window.picture("interrupted")
            assert state(site, "venv-small") is State.BUILDING and window.bar.count() == 0
            window.run(1)
            window.bar.wait_for()
            line.open()
            window.wait_for_output(1, "second result")
            assert output_text(window.save(notebook)[1]) == ["second result\n"]
            assert window.dialogs == []
    assert built_once(site, "venv-small").number == 1


def test_a_restart_and_a_shutdown_leave_the_build_to_finish(slow: SlowSite, lab_on: OpenLab) -> None:
    """A kernel that is restarted, then shut down, then started again in the middle joins the same build each time, and
    the cell run last gets its result."""
    site, line = slow(small=SMALL)
    with lab_on(site) as lab:
        notebook = lab.write_notebook("venv-small", "print('the result')")
        with lab.window(notebook, name="restart") as window:
            window.run(0)
            window.bar.wait_for()
            window.restart()
            window.wait_for_kernel()
            window.picture("restarted")
            window.run(0)
            window.wait_for_output(0, "Started by")
            window.menu("Kernel", "Shut Down Kernel")
            wait_for(lambda: lab.server.get("/api/kernels") == [], "the kernel to end", page=window.page)
            window.bar.wait_for(state="detached")
            window.picture("shut-down")
            assert state(site, "venv-small") is State.BUILDING
            window.run(0)
            window.wait_for_output(0, "Started by")
            line.open()
            window.wait_for_output(0, "the result")
            assert [output_text(cell) for cell in window.save(notebook)] == [["the result\n"]]
    assert built_once(site, "venv-small").number == 1


def test_a_build_that_fails_is_told_under_the_cells(conda_site: Site, lab_on: OpenLab) -> None:
    """Where the environment can't be had, each cell says which, the solver's reason and what to do, without a stack
    trace, in a kernel that stays alive."""
    text = "channels: [conda-forge]\ndependencies: [python, broken-dep]\n"
    conda_site.add("broken", {"sepal_environment.yml": text})
    conda_site.sync()
    told = (
        "The environment of (venv) App broken can't be used.", "no-such-library", "What to do:",
        "jupyter sepal log venv-broken",
    )  # fmt: skip
    with lab_on(conda_site) as lab:
        notebook = lab.write_notebook("venv-broken", "print('first result')", "print('second result')")
        with lab.window(notebook, name="failure") as window:
            for number in (0, 1):
                window.run(number)
                for words in told:
                    window.wait_for_output(number, words)
                assert "Traceback" not in window.output(number).inner_text()
            window.wait_for_kernel()
            window.picture("failure")
            assert window.dialogs == []
            (kernel,) = lab.server.get("/api/kernels")
            assert kernel["execution_state"] == "idle"


def test_an_older_environment_starts_at_once(slow: SlowSite, channel: Path, lab_on: OpenLab) -> None:
    """Where only an older environment is ready, the kernel runs from it at once and says so once, quietly, while the
    newer one is being built; a restart takes that one."""
    text = "channels: [conda-forge]\ndependencies: [python, sepal-demo={}]\n"
    site, line = slow(moving=text.format("1.*"))
    slow_mirrors, site.mirrors = site.mirrors, mirrors(channel)
    site.build("venv-moving")
    site.mirrors = slow_mirrors
    commit(site.repository("moving"), {"sepal_environment.yml": text.format("2.*, numpy")})
    site.sync()
    with lab_on(site) as lab:
        cells = ("import sepal_demo\nprint('demo', sepal_demo.__version__)", "print('second result')")
        notebook = lab.write_notebook("venv-moving", *cells)
        with lab.window(notebook, name="outdated") as window:
            window.run_all()
            window.wait_for_output(0, "demo 1.0")
            window.wait_for_output(0, "An older version of the environment runs.")
            window.wait_for_output(1, "second result")
            assert state(site, "venv-moving") is State.BUILDING
            assert window.output(1).inner_text().strip() == "second result"
            window.picture("outdated")
            assert window.dialogs == []
            line.open()
            wait_for(lambda: state(site, "venv-moving") is State.READY, "the newer one", page=window.page)
            window.restart()
            window.wait_for_kernel()
            window.run(0)
            window.wait_for_output(0, "demo 2.0")
            assert output_text(window.save(notebook)[0]) == ["demo 2.0\n"]


def test_widgets_work_through_the_relay(conda_site: Site, lab_on: OpenLab) -> None:
    """A slider of a kernel that was built while its cell waited: moved in the browser it changes in the kernel, and set
    in the kernel it moves in the browser."""
    text = "channels: [conda-forge]\ndependencies:\n- python\n- pip:\n  - ipywidgets\n"
    conda_site.add("widgets", {"sepal_environment.yml": text})
    conda_site.sync()
    with lab_on(conda_site) as lab:
        cells = (
            "import ipywidgets\nslider = ipywidgets.IntSlider(value=7, max=20)\nslider",
            "print('value', slider.value)",
            "slider.value = 15",
        )
        notebook = lab.write_notebook("venv-widgets", *cells)
        with lab.window(notebook, name="widgets") as window:
            window.run(0)
            window.bar.wait_for()
            handle, readout = (window.output(0).locator(name) for name in (".noUi-handle", ".widget-readout"))
            handle.focus()
            for _ in range(3):
                handle.press("ArrowRight")
            readout.get_by_text("10").wait_for()
            window.run(1)
            window.wait_for_output(1, "value 10")
            window.run(2)
            readout.get_by_text("15").wait_for()
            window.picture("widgets")


def test_voila_waits_for_the_environment(slow: SlowSite, browser: Browser) -> None:
    """A Voilà page whose kernel isn't built is ready when the build is, which is longer than the proxy waits for a
    silent server, and then shows the cell's output and nothing of the wait."""
    site, _ = slow(1_200_000, small=SMALL)
    write_notebook(site.root / "page.ipynb", "venv-small", "import sys\nprint('from', sys.prefix)")
    with Voila(site) as voila, browser.new_context() as context:
        page = context.new_page()
        page.goto(voila.page_of("page.ipynb"), wait_until="commit", timeout=PATIENCE * 1000)
        page.get_by_text("Executing").first.wait_for(timeout=PATIENCE * 1000)
        picture(page, "voila-waiting")
        page.get_by_text("from ").wait_for(timeout=PATIENCE * 1000)
        picture(page, "voila")
        prefix = built_once(site, "venv-small")
        assert prefix.record().seconds > READ_TIMEOUT
        text = page.locator("body").inner_text()
        assert f"from {prefix.path}" in text and "Preparing" not in text


def test_the_progress_can_be_read(slow: SlowSite, lab_on: OpenLab) -> None:
    """In JupyterLab's light and dark themes every text of the wait has the contrast that WCAG 2 asks for, 4.5 to 1."""
    site, line = slow(small=SMALL)
    with lab_on(site) as lab:
        notebook = lab.write_notebook("venv-small", "print('first result')", "print('second result')")
        with lab.window(notebook, name="themes") as window:
            window.run_all()
            window.bar.wait_for()
            for theme, light in (("Light", "true"), ("Dark", "false")):
                window.menu("Settings", "Theme", f"JupyterLab {theme}")
                window.page.locator(f'body[data-jp-theme-light="{light}"]').wait_for(state="attached")
                window.page.locator("#jupyterlab-splash").wait_for(state="detached")
                window.wait_for_output(1, "Waits for the environment")
                window.picture(f"theme-{theme.lower()}")
                contrasts = [window.output(number).evaluate(CONTRAST) for number in (0, 1)]
                assert min(contrasts) >= 4.5, (theme, contrasts)
            line.open()
            window.wait_for_output(1, "second result")
