"""Progress: what the builder writes is what everybody else reads, and a bar never runs backwards."""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepal_provisioner import progress as module
from sepal_provisioner.errors import BuildError, KilledError, NoSpaceError, SolveError, StoreError, every_error
from sepal_provisioner.progress import DETAIL_LIMIT, Phase, Progress, Reporter, read_progress

MB = 1_000_000


@pytest.fixture
def reporter(tmp_path: Path) -> Reporter:
    """A reporter that has begun."""
    made = Reporter(tmp_path / "progress.json", "venv-gwb", "0123456789abcdef", previous=60)
    made.begin()
    return made


def plain(progress: Progress) -> dict[str, Any]:
    """A progress as the JSON object that stands in its file."""
    return {**asdict(progress), "phase": progress.phase.value}


def test_a_build_of_an_engine_that_knows_sizes_never_runs_backwards(reporter: Reporter) -> None:
    """Counts first, sizes later, totals that grow, steps that come out of order: the fraction only ever grows."""
    seen = [reporter.progress.fraction]

    def look() -> None:
        seen.append(reporter.progress.fraction)

    reporter.phase(Phase.SOLVE)
    look()
    reporter.phase(Phase.DOWNLOAD, 48)
    look()
    for done in range(24):
        reporter.update(done=done, item=f"package-{done}")
        look()
    reporter.update(bytes_total=120 * MB, bytes_done=MB)
    look()
    for size in (20, 30, 25, 31, 60):
        reporter.update(bytes_done=size * MB)
        look()
    reporter.update(bytes_total=240 * MB)
    look()
    reporter.phase(Phase.LINK, 48)
    look()
    reporter.phase(Phase.DOWNLOAD, 50)
    look()
    for done in (1, 40, 7, 48):
        reporter.update(done=done)
        look()
    reporter.phase(Phase.PIP)
    reporter.update(item="Building wheel")
    look()
    reporter.phase(Phase.COMPILE)
    look()
    reporter.phase(Phase.VERIFY)
    look()
    reporter.end()
    look()
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1)
    assert reporter.progress.phase is Phase.DONE


updates = st.fixed_dictionaries(
    {},
    optional={
        "done": st.integers(-5, 200),
        "total": st.integers(0, 200),
        "bytes_done": st.integers(-5, 10**9),
        "bytes_total": st.integers(0, 10**9),
        "item": st.text(max_size=5),
    },
)
steps = st.lists(st.one_of(st.tuples(st.sampled_from(Phase), st.integers(0, 100)), updates), max_size=25)


@given(steps)
def test_nothing_that_an_engine_reports_makes_a_bar_run_backwards(
    tmp_path_factory: pytest.TempPathFactory, script: list[Any]
) -> None:
    """Whatever an engine reports in whatever order, the fraction grows from 0 to 1 and phases come in their order."""
    reporter = Reporter(PLACE.setdefault("at", tmp_path_factory.mktemp("progress")) / "progress.json", "n", "f")
    before = reporter.progress
    for step in script:
        if isinstance(step, tuple):
            reporter.phase(step[0], step[1])
        else:
            reporter.update(**step)
        now = reporter.progress
        assert 0 <= before.fraction <= now.fraction <= 1
        assert list(Phase).index(now.phase) >= list(Phase).index(before.phase)
        if not isinstance(step, tuple):
            assert now.done >= before.done
            assert now.bytes_done >= before.bytes_done
        assert now.sentence().startswith(now.phase.value)
        before = now
    reporter.end()
    assert reporter.progress.fraction == 1


PLACE: dict[str, Path] = {}


def test_a_phase_never_goes_back(reporter: Reporter) -> None:
    """A late report of an earlier phase is ignored, with everything that it says."""
    reporter.phase(Phase.LINK, 10, "numpy")
    reporter.phase(Phase.SOLVE, 3, "late")
    now = reporter.progress
    assert (now.phase, now.total, now.item) == (Phase.LINK, 10, "numpy")


def test_what_is_written_is_read_by_others(reporter: Reporter, tmp_path: Path) -> None:
    """The file holds who builds what since when, from the first moment to the last."""
    path = tmp_path / "progress.json"
    first = read_progress(path)
    assert first is not None
    assert (first.name, first.fingerprint, first.previous) == ("venv-gwb", "0123456789abcdef", 60)
    assert (first.phase, first.fraction, first.ended, first.pid) == (Phase.PREPARE, 0, 0, os.getpid())
    assert first.user
    assert first.host
    assert 0 < first.started <= first.updated
    reporter.phase(Phase.LINK, 48, "numpy")
    assert read_progress(path) == reporter.progress
    reporter.end()
    last = read_progress(path)
    assert last == reporter.progress
    assert last is not None
    assert last.ended >= last.started
    assert last.failure() is None
    assert set(last.durations) == {"prepare", "link"}
    assert all(seconds >= 0 for seconds in last.durations.values())


def test_updates_are_written_a_few_times_a_second_and_phases_always(
    reporter: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates between two writes wait for the next one, a change of phase and the end do not wait."""
    monkeypatch.setattr(module, "WRITE_EVERY", 3600)
    path = tmp_path / "progress.json"
    reporter.phase(Phase.LINK, 100)
    for done in range(100):
        reporter.update(done=done)
    on_disk = read_progress(path)
    assert on_disk is not None
    assert (on_disk.phase, on_disk.done) == (Phase.LINK, 0)
    reporter.phase(Phase.PIP)
    on_disk = read_progress(path)
    assert on_disk is not None
    assert on_disk.phase is Phase.PIP


def test_a_failure_is_recorded_where_it_happened(reporter: Reporter, tmp_path: Path) -> None:
    """A failed build ends in the phase that it was in, with its words, the detail bounded to its last part."""
    reporter.phase(Phase.SOLVE)
    reporter.end(SolveError("No packages fit.", detail="x" * 100_000 + "the end"))
    found = read_progress(tmp_path / "progress.json")
    assert found is not None
    assert found.phase is Phase.SOLVE
    assert found.fraction < 1
    assert len(found.detail) == DETAIL_LIMIT
    failure = found.failure()
    assert type(failure) is SolveError
    assert failure.message == "No packages fit."
    assert failure.detail.endswith("the end")


@pytest.mark.parametrize("code", sorted(every_error()))
def test_a_recorded_failure_is_of_its_own_class(code: str) -> None:
    """Each code turns into the class that carries it, with message and detail."""
    failure = Progress("n", "f", error=code, message="m", detail="d").failure()
    assert failure is not None
    assert type(failure) is every_error()[code]
    assert (failure.code, failure.message, failure.detail) == (code, "m", "d")


def test_each_error_has_a_code_of_its_own() -> None:
    """No two classes share a code, so that a recorded failure is never mistaken for another."""

    def classes(root: type) -> list[type]:
        return [root, *[inner for child in root.__subclasses__() for inner in classes(child)]]

    public = [c for c in classes(module.SepalError) if c.__module__ == "sepal_provisioner.errors"]
    assert len({c.code for c in public}) == len(public)  # type: ignore[attr-defined]
    assert {NoSpaceError, StoreError, KilledError} <= set(public)


def test_an_unknown_failure_is_a_failed_build() -> None:
    """A code of another version is still a failure with its words, and no code is none."""
    failure = Progress("n", "f", error="something-new", message="m").failure()
    assert type(failure) is BuildError
    assert failure.message == "m"
    assert Progress("n", "f").failure() is None


def test_sentences() -> None:
    """People read the phase, what is known of counts and sizes, and what is at work."""
    assert Progress("n", "f").sentence() == "Preparing"
    assert Progress("n", "f", Phase.LINK, 12, 48, item="libgdal").sentence() == "Installing 12 of 48 packages: libgdal"
    both = Progress("n", "f", Phase.DOWNLOAD, 12, 48, 31 * MB, 120 * MB, "libgdal")
    assert both.sentence() == "Downloading 12 of 48 packages, 31.0 MB of 120.0 MB: libgdal"
    assert Progress("n", "f", Phase.DOWNLOAD, bytes_done=31 * MB).sentence() == "Downloading, 31.0 MB"


def test_json_round_trip() -> None:
    """Every field that is set arrives on the other side of the file."""
    full = Progress(
        "n", "f", Phase.LINK, 1, 2, 3, 4, "item", 5.5, 6.5, 7.5, 8.5, user="u", host="h", pid=9,
        error="busy", message="m", detail="d", durations={"solve": 1.5},
    )  # fmt: skip
    again = Progress.from_json(json.loads(json.dumps(plain(full))))
    assert again == full
    assert Progress.from_json({"name": "n", "fingerprint": "f", "phase": "Solving", "new": 1}).phase is Phase.SOLVE


sound = plain(Progress("n", "f"))
numbers = st.integers() | st.floats() | st.just(10**400)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
changed = st.dictionaries(st.sampled_from(sorted(sound)), json_values, max_size=3).map(lambda more: {**sound, **more})


@given(json_values | changed)
def test_any_json_is_a_progress_or_a_value_error(document: Any) -> None:
    """Whatever stands in the file, reading it gives a ValueError or a progress that can be shown."""
    try:
        progress = Progress.from_json(json.loads(json.dumps(document)))
    except ValueError as error:
        assert str(error)
        return
    assert 0 <= progress.fraction <= 1
    assert progress.sentence().startswith(progress.phase.value)
    assert math.isfinite(progress.started + progress.ended)
    progress.failure()
    assert {field.name for field in fields(progress)} == sound.keys()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b'{"name": "n"}', b"[" * 100_000, b'"' + b"x" * 2_000_000 + b'"']
)
def test_a_file_that_is_no_progress_is_none(content: bytes, tmp_path: Path) -> None:
    """Half a file, somebody else's file, one that is too large or missing: there is no progress, and no error."""
    path = tmp_path / "progress.json"
    assert read_progress(path) is None
    path.write_bytes(content)
    assert read_progress(path) is None


def test_a_reporter_without_a_place_says_so_at_once(tmp_path: Path) -> None:
    """Where the first state can't be written the build ends before it begins, as a StoreError."""
    (tmp_path / "file").touch()
    reporter = Reporter(tmp_path / "file" / "progress.json", "n", "f")
    with pytest.raises(StoreError):
        reporter.begin()


def test_engines_may_report_from_many_threads(reporter: Reporter, tmp_path: Path) -> None:
    """Reports that come from several threads at once all count, and the file is whole afterwards."""
    reporter.phase(Phase.LINK, 400)

    def report(start: int) -> None:
        for done in range(start, 401, 4):
            reporter.update(done=done, item=str(done))

    threads = [threading.Thread(target=report, args=(start,)) for start in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reporter.progress.done == 400
    reporter.end()
    assert read_progress(tmp_path / "progress.json") == reporter.progress
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]
