"""Hostile catalogs and repositories beside a good one: each costs itself, and nothing outside the store."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Site, commit
from hostile import CONDA, FAILED, FILE, INVALID, LISTED, NAME, NOTHING, REFUSED, SECRET, SEEDS, Ground, Seed
from test_git import serve_git

from sepal_provisioner.catalog import parse_catalog
from sepal_provisioner.envfile import find_environment_file, read_environment_file
from sepal_provisioner.errors import SepalError
from sepal_provisioner.files import read_bounded, remove_tree
from sepal_provisioner.git import Git, Source

GOOD = "venv-good"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The good application's repository."""
    folder = tmp_path_factory.mktemp("repositories") / "good"
    commit(folder, {"sepal_environment.yml": CONDA})
    return folder


@pytest.fixture
def ground(site: Site, good: Path, tmp_path: Path) -> Iterator[Ground]:
    """A site with the good application and an empty catalog beside it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(f"{SECRET}-outside\n")
    (outside / "logo.svg").write_text("<svg></svg>")
    (outside / "setup.py").write_text("")
    commit(outside / "repository", {"sepal_environment.yml": CONDA})
    site.apps.append({"id": "good", "label": "Good", "endpoint": "jupyter", "repository": f"file://{good}"})
    site.write()
    found = Ground(site, outside, tmp_path / "ran")
    site.options |= {"catalogs": [str(site.catalog), str(found.catalog)], "git_timeout": 30}
    yield found
    remove_tree(site.store.root)  # pytest, which recurses, could not remove what is deep in it


def everything(folder: Path, without: Path) -> Iterator[tuple[str, int, int]]:
    """Each file and folder but those of one: its path, mode and time of change."""
    pending = [folder]
    while pending:
        path = pending.pop()
        if path == without:
            continue
        info = path.lstat()
        yield str(path), info.st_mode, 0 if path == without.parent else info.st_mtime_ns
        if stat.S_ISDIR(info.st_mode):
            pending += sorted(path.iterdir())


def code_of(ground: Ground, seed: Seed) -> str:
    """The code of the error that the reader in question ends with, "" for none."""
    settings, checkout = ground.site.settings(), ground.site.store.apps / NAME
    try:
        if seed.expected == INVALID:
            try:
                parse_catalog(read_bounded(ground.catalog, 20_000_000), settings.schemes)
            except ValueError as error:
                return INVALID if "larger" in str(error) else ""
        elif seed.expected == FAILED:
            (app,) = parse_catalog(ground.catalog.read_bytes(), settings.schemes).apps
            git = Git(checkout, timeout=30, schemes=settings.schemes)
            git.update(Source(app.repository, app.branch, app.commit), ground.site.store.aside)
        elif seed.expected == FILE:
            read_environment_file(checkout, find_environment_file(checkout) or "")
    except SepalError as error:
        return error.code
    return ""


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_a_hostile_seed_costs_itself_only(
    seed: Seed, ground: Ground, good: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each hostile catalog or repository ends as it should; the good application is listed, nothing is run, nothing
    outside the store changes, and no password is shown."""
    seed.plant(ground)
    site, store = ground.site, ground.site.store
    with serve_git(Path(good.anchor)) as server:
        if seed.http:
            for catalog in (site.catalog, ground.catalog):
                text = catalog.read_text()
                if seed.words == NAME or catalog == site.catalog:
                    catalog.write_text(text.replace("file://", server.url))
            site.options["repository_schemes"] = ["http"]
        home, root = Path(os.environ["HOME"]), ground.outside.parent
        before = (list(everything(root, store.root)), list(everything(home, home / "none")))
        site.sync()
        if seed.later:
            seed.later(ground, store.apps / NAME)
            before = (list(everything(root, store.root)), before[1])
            site.sync()
        after = (list(everything(root, store.root)), list(everything(home, home / "none")))
        code = code_of(ground, seed)
    assert after == before
    assert not ground.ran.exists()
    index = store.index()
    said = "\n".join(str(problem) for problem in index.problems)
    listed = [kernel.name for kernel in index.kernels if not kernel.problem]
    assert GOOD in listed
    assert seed.words in said, said
    assert (f"venv-{NAME}" in listed) == (seed.expected == LISTED), said
    if seed.expected == REFUSED:
        assert not (store.apps / NAME).exists()
    elif seed.expected in (LISTED, NOTHING):
        assert not [problem for problem in index.problems if "is ignored" not in problem.message], said
    else:
        assert code == seed.expected
    assert all(problem.message.isprintable() and problem.place.isprintable() for problem in index.problems)
    assert store.index_path.stat().st_size < 3_000_000
    shown = store.index_path.read_text() + said + caplog.text + "".join(capfd.readouterr())
    assert SECRET not in shown
    for name, mode, _ in everything(store.root, store.apps):
        if stat.S_ISREG(mode):
            path = Path(name)
            assert SECRET.encode() not in path.read_bytes() or mode & 0o077 == 0, path


def test_every_seed_has_a_name_of_its_own() -> None:
    """The list is as long as it says, and a failure names one seed."""
    assert len({seed.name for seed in SEEDS}) == len(SEEDS) >= 45
