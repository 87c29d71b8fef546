"""What a waiting cell shows: HTML that nothing can break out of, and the same as text."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sepal_provisioner.display import WIDTH, View, failure_text, notice_bundle, progress_bundle, queued_bundle
from sepal_provisioner.errors import SepalError, SolveError, StoreReadOnlyError, every_error
from sepal_provisioner.progress import Phase, Progress

NOW = 1_790_000_000.0
HOSTILE = '<script>alert("1")</script>&\'</div>'
RUNNING = Progress(
    "venv-x",
    "0" * 16,
    phase=Phase.DOWNLOAD,
    done=12,
    total=48,
    bytes_done=31_000_000,
    bytes_total=120_400_000,
    item="libgdal",
    started=NOW - 65,
    updated=NOW,
    user="ada",
    host="lake",
)


class Parsed(HTMLParser):
    """A page's elements as (tag, attributes), and its words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def bar(self) -> dict[str, str | None]:
        """The progress bar's attributes."""
        (found,) = [attributes for _, attributes in self.elements if attributes.get("role") == "progressbar"]
        return found


def view(**changes: object) -> View:
    """Somebody's view of a build."""
    return replace(View("(venv) X", RUNNING, since=NOW - 10, fraction=0.25), **changes)  # type: ignore[arg-type]


def test_it_says_what_is_going_on() -> None:
    """Name, share, step with numbers, time so far and last time, and that one may leave: in both forms."""
    bundle = progress_bundle(view(progress=replace(RUNNING, previous=130)), NOW)
    page = Parsed(bundle["text/html"])
    for words in (page.words, bundle["text/plain"]):
        for wanted in (
            "Preparing the environment of (venv) X",
            "Downloading 12 of 48 packages, 31.0 MB of 120.4 MB: libgdal",
            "1 min 05 s so far; it took 2 min 10 s last time",
            "Your cell runs by itself",
            "Closing the notebook does not stop the build",
        ):
            assert wanted in words
    assert "25\N{NO-BREAK SPACE}%" in page.words and "25 %" in bundle["text/plain"]
    assert "Started by" not in page.words


@pytest.mark.parametrize(
    ("fraction", "percent", "width"),
    [(0.0, "0", "0.0"), (0.004, "0", "0.4"), (0.333, "33", "33.3"), (1.0, "100", "100.0")],
)
def test_the_bar_is_as_wide_as_it_says(fraction: float, percent: str, width: str) -> None:
    """The bar's width, its aria value and the number beside it are one; it is announced with the sentence."""
    page = Parsed(progress_bundle(view(fraction=fraction), NOW)["text/html"])
    bar = page.bar()
    assert (bar["aria-valuemin"], bar["aria-valuemax"], bar["aria-valuenow"]) == ("0", "100", percent)
    assert bar["aria-valuetext"] == RUNNING.sentence()
    after = page.elements[[attributes for _, attributes in page.elements].index(bar) + 1][1]
    assert f"width:{width}%" in str(after["style"])
    assert page.elements[0][1]["role"] == "group" and page.elements[0][1]["aria-label"]


def test_the_step_is_marked() -> None:
    """Steps that are done have a tick, the present one is bold; when the kernel starts, all are done."""
    page = progress_bundle(view(progress=replace(RUNNING, phase=Phase.PIP)), NOW)["text/html"]
    assert "✓&nbsp;Solving" in page and "✓&nbsp;Installing ·" in page
    assert "<b>Installing pip packages</b>" in page and "✓&nbsp;Compiling" not in page
    starting = progress_bundle(view(starting=True, fraction=1.0), NOW)
    assert starting["text/html"].count("✓") == 6 and "Ready; starting the kernel" in starting["text/plain"]


def test_somebody_elses_build_is_named() -> None:
    """Who started it, where and when; one's own is not attributed to anybody."""
    at = time.strftime("%H:%M", time.localtime(RUNNING.started))
    for text in progress_bundle(view(own=False), NOW).values():
        assert f"Started by ada on lake at {at}" in text
    assert "ada" not in progress_bundle(view(own=True), NOW)["text/plain"]


def test_before_the_build_says_anything() -> None:
    """Without a progress there is still a sentence, a bar at 0, and the time since the kernel was started."""
    bundle = progress_bundle(View("(venv) X", None, since=NOW - 3), NOW)
    assert "Starting the build" in bundle["text/plain"] and "3 s so far" in bundle["text/plain"]
    assert Parsed(bundle["text/html"]).bar()["aria-valuenow"] == "0"


def test_nothing_breaks_out() -> None:
    """A label, an item, a user and a host with markup are words, never elements; text stays as it is."""
    hostile = replace(RUNNING, item=HOSTILE, user=HOSTILE, host=HOSTILE)
    bundles = [progress_bundle(view(display_name=HOSTILE, progress=hostile, own=False), NOW), notice_bundle(HOSTILE)]
    for bundle in bundles:
        page = Parsed(bundle["text/html"])
        assert {tag for tag, _ in page.elements} <= {"div", "b", "span", "br"}
        assert HOSTILE in page.words and HOSTILE in bundle["text/plain"]
    assert Parsed(bundles[0]["text/html"]).bar()["aria-valuetext"] == hostile.sentence()


NUMBERS = st.one_of(
    st.integers(min_value=-(10**400), max_value=10**400), st.floats(), st.sampled_from([0, 1, NOW, 1e308, -1e308])
)
TEXTS = st.text(max_size=40)


@settings(max_examples=400, deadline=None)
@example({"name": "x", "fingerprint": "", "phase": "Solving", "started": 1e300}, "x", False, False)
@given(
    progress=st.none()
    | st.fixed_dictionaries(
        {"name": TEXTS, "fingerprint": TEXTS, "phase": st.sampled_from([phase.value for phase in Phase])},
        optional={
            **dict.fromkeys(("done", "total", "bytes_done", "bytes_total", "started", "updated"), NUMBERS),
            **dict.fromkeys(("ended", "previous", "reached"), NUMBERS),
            **dict.fromkeys(("item", "user", "host"), TEXTS),
        },
    ),
    title=TEXTS,
    own=st.booleans(),
    starting=st.booleans(),
)
def test_whatever_a_progress_file_holds_can_be_shown(
    progress: dict[str, object] | None, title: str, own: bool, starting: bool
) -> None:
    """Every progress that can be read at all gives a bar from 0 to 100, closed elements, and no `None` or `nan`."""
    try:
        read = None if progress is None else Progress.from_json(progress)
    except ValueError:
        return
    shown = View(title, read, NOW, own, 0.0 if read is None else read.fraction, starting)
    bundle = progress_bundle(shown, NOW)
    page = Parsed(bundle["text/html"])
    assert 0 <= int(str(page.bar()["aria-valuenow"])) <= 100
    given_words = title + "".join(str(value) for value in (progress or {}).values())
    for text in bundle.values():
        for word in ("None", "nan", "inf"):
            assert not re.search(rf"\b{word}\b", text) or word in given_words


def test_a_waiting_cells_line_is_quiet() -> None:
    """One line with the cell's number, the same in both forms, and no bar."""
    bundle = queued_bundle(3)
    assert "number 3" in bundle["text/plain"] and "\n" not in bundle["text/plain"]
    page = Parsed(bundle["text/html"])
    assert page.words == bundle["text/plain"] and [tag for tag, _ in page.elements] == ["div"]


def test_a_remark_is_a_note() -> None:
    """A remark is announced as one."""
    page = Parsed(notice_bundle("An older version runs.")["text/html"])
    assert page.elements[0][1]["role"] == "note" and page.words == "An older version runs."


def test_a_failure_says_what_why_where_and_what_now() -> None:
    """Which environment, the reason, the tool's last words, the remedy with its command, and the log."""
    error = SolveError("Nothing provides x.", detail="\n".join(f"line {number}" for number in range(100)))
    text = failure_text("(venv) X", error, "/store/x.log", "venv-x")
    assert text.splitlines()[0] == "The environment of (venv) X can't be used."
    assert "Nothing provides x." in text and "    line 99" in text and "line 59" not in text
    assert "What to do: the kernel's author has to relax" in text and "jupyter sepal build venv-x --force" in text
    assert text.splitlines()[-2:] == ["Log: jupyter sepal log venv-x", "     /store/x.log"]
    assert "\n    jupyter sepal build venv-x --force\n" in text, "a command has a line of its own"


def test_long_lines_are_broken_between_words() -> None:
    """No line is longer than what JupyterLab shows in one, unless a single word or command is; what a solver draws
    stays below its own words, and nothing is lost."""
    tree = "└─ gdal 3.8.3 would require\n   └─ " + "libproj >=9.3.1,<9.4.0a0 which is not there and " * 4
    error = SolveError("Retry now by `jupyter sepal build venv-x --force` " * 5 + "x" * 200, detail=tree)
    text = failure_text("(venv) X", error, "", "venv-x")
    long = [line for line in text.splitlines() if len(line) > WIDTH]
    assert long == ["x" * 200] and text.count("`jupyter sepal build venv-x --force`") == 5
    drawn = [line for line in text.splitlines() if "libproj" in line]
    assert len(drawn) > 1 and drawn[0].startswith("       └─ libproj") and drawn[1].startswith(" " * 10)
    assert text.split().count("libproj") == 4


def test_every_failure_has_a_remedy() -> None:
    """Whatever the error's class, somebody is told to do something; without a log none is named."""
    for code, kind in every_error().items():
        text = failure_text("(venv) X", kind("What happened."), "", "venv-x")
        assert "What happened." in text and re.search(
            r"^What to do: \w.+\.$|^What to do: [^:]+:\n    jupyter sepal build venv-x --force$", text, re.MULTILINE
        )
        assert "Log:" not in text and "None" not in text, code
    assert "administrator" in failure_text("X", StoreReadOnlyError("No."), "", "venv-x")
    assert "restart the kernel" in failure_text("X", SepalError("No."), "", "venv-x")
