"""Sync: catalogs and real repositories become the index, and what goes wrong costs only itself."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
from conftest import SHARED, Site, commit, git

from sepal_provisioner.errors import BusyError, StoreError
from sepal_provisioner.sync import command, main, sync

CONDA = "channels: [conda-forge]\ndependencies: [python]\n"


def names(site: Site) -> list[str]:
    """The kernels that the store's index lists."""
    return [kernel.name for kernel in site.store.index().kernels]


def problems(site: Site) -> str:
    """Every problem of the last sync as text."""
    return "\n".join(map(str, site.store.index().problems))


def test_a_catalog_becomes_kernels(site: Site) -> None:
    """Repositories with an environment file are kernels at their commit; others are applications without one; hidden
    ones are kernels; entries of other endpoints and skipped ones are not."""
    first = site.add("First", {"sepal_environment.yml": CONDA, "requirements.txt": "six\n"})
    site.add("legacy", {"requirements.txt": "six\n"}, hidden=True)
    site.add("plain", {"ui.ipynb": "{}"})
    site.add("shiny", {"sepal_environment.yml": CONDA}, endpoint="shiny")
    site.add("later", {"sepal_environment.yml": CONDA}, skip=True)
    report = site.sync()
    assert names(site) == ["venv-first", "venv-legacy"] == list(report.added)
    kernel = site.store.index().get("VENV-First")
    assert kernel is not None
    assert (kernel.commit, kernel.environment_file, kernel.checkout) == (first, "sepal_environment.yml", "First")
    assert (site.store.apps / "First" / "sepal_environment.yml").is_file()
    assert not problems(site)


def test_an_unchanged_site_changes_nothing(site: Site) -> None:
    """A second sync finds the same kernels and touches no checkout."""
    site.add("one", {"sepal_environment.yml": CONDA})
    site.sync()
    before = (site.store.apps / "one" / "sepal_environment.yml").stat()
    report = site.sync()
    after = (site.store.apps / "one" / "sepal_environment.yml").stat()
    assert (report.added, report.changed, report.removed) == ((), (), ())
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_a_new_commit_and_a_removed_entry_are_seen(site: Site) -> None:
    """A commit that changes the file changes the fingerprint, one that adds a comment does not; an entry that is gone
    from the catalog is gone from the list."""
    site.add("one", {"sepal_environment.yml": CONDA})
    site.add("two", {"sepal_environment.yml": CONDA})
    site.sync()
    commit(site.repository("one"), {"sepal_environment.yml": CONDA.replace("python", "python>=3.10")})
    moved = commit(site.repository("two"), {"sepal_environment.yml": "# said better\n" + CONDA})
    report = site.sync()
    assert report.changed == ("venv-one",)
    assert site.store.index().get("venv-two").commit == moved  # type: ignore[union-attr]
    site.apps.pop(0)
    site.write()
    assert site.sync().removed == ("venv-one",)
    assert names(site) == ["venv-two"]


def test_what_goes_wrong_with_one_repository_costs_only_its_update(site: Site) -> None:
    """A vanished repository, a deleted branch and a broken environment file keep their last good entry and are told;
    the others are updated."""
    for name in ("vanishes", "branch", "breaks", "good"):
        site.add(name, {"sepal_environment.yml": CONDA}, branch="main")
    site.sync()
    shutil.rmtree(site.repository("vanishes"))
    git(site.repository("branch"), "branch", "--move", "main", "other")
    commit(site.repository("breaks"), {"sepal_environment.yml": "dependencies: [\n"})
    moved = commit(site.repository("good"), {"README": "new"})
    site.sync()
    assert names(site) == ["venv-vanishes", "venv-branch", "venv-breaks", "venv-good"]
    assert site.store.index().get("venv-good").commit == moved  # type: ignore[union-attr]
    said = problems(site)
    assert "vanishes: " in said and "no branch 'main'" in said and "breaks: sepal_environment.yml: line" in said
    for name in ("vanishes", "branch", "breaks"):
        assert site.store.index().get(f"venv-{name}").problem  # type: ignore[union-attr]


def test_a_repository_that_never_worked_is_only_reported(site: Site) -> None:
    """A new entry that can't be cloned, or whose file can't be read, is no kernel; its reason is in the problems."""
    site.apps += [{"id": "no", "label": "No", "endpoint": "jupyter", "repository": f"file://{site.root}/none"}]
    site.add("bad", {"sepal_environment.yml": "- a\n- list\n"})
    site.sync()
    assert names(site) == []
    assert "no: " in problems(site) and "bad: sepal_environment.yml" in problems(site)


def test_local_changes_are_set_aside_and_reported(site: Site) -> None:
    """A checkout that somebody edited is moved to `aside` with its changes when an update comes, and is said so."""
    site.add("one", {"sepal_environment.yml": CONDA, "notebook.ipynb": "{}"})
    site.sync()
    (site.store.apps / "one" / "notebook.ipynb").write_text("a morning's work")
    commit(site.repository("one"), {"README": "new"})
    site.sync()
    kept = list(site.store.aside.iterdir())
    assert [path.joinpath("notebook.ipynb").read_text() for path in kept] == ["a morning's work"]
    assert str(kept[0]) in problems(site)
    assert (site.store.apps / "one" / "notebook.ipynb").read_text() == "{}"


def test_a_catalog_that_fails_costs_nothing(site: Site) -> None:
    """When a catalog turns into nonsense or vanishes, its last good copy is used, marked with its age and the reason;
    with the copy gone too, its kernels stay listed."""
    site.add("one", {"sepal_environment.yml": CONDA})
    site.sync()
    good = site.store.index().catalogs[0].fetched
    site.catalog.write_text('{"apps": [')
    site.sync()
    state = site.store.index().catalogs[0]
    assert names(site) == ["venv-one"] and "not JSON" in state.error and state.fetched == good
    site.catalog.unlink()
    for copy in site.store.catalogs.iterdir():
        copy.unlink()
    site.sync()
    assert names(site) == ["venv-one"] and not site.store.index().catalogs[0].fetched


def test_of_two_catalogs_the_first_wins(site: Site, tmp_path: Path) -> None:
    """A kernel that two catalogs name is the first one's, and the second is told."""
    site.add("one", {"sepal_environment.yml": CONDA})
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"apps": [{**site.apps[0], "id": "again", "label": "Again"}]}))
    site.options["catalogs"] = [str(site.catalog), str(other)]
    site.sync()
    assert [(k.app, k.label) for k in site.store.index().kernels] == [("one", "App one")]
    assert "venv-one" in problems(site) and "again" in problems(site)


def test_a_repository_that_hangs_delays_nobody(site: Site) -> None:
    """While one remote never answers, the others are already in the index; the hanging one ends at its time limit."""
    for number in range(3):
        site.add(f"good{number}", {"sepal_environment.yml": CONDA})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/owner/hangs"
        site.apps.insert(0, {"id": "hangs", "label": "H", "endpoint": "jupyter", "repository": url})
        site.write()
        site.options |= {"repository_schemes": ["file", "http"], "git_timeout": 20}
        runner = threading.Thread(target=site.sync)
        runner.start()
        while runner.is_alive() and len(names(site)) < 3:
            time.sleep(0.05)
        assert runner.is_alive(), "the index was written only after the hanging repository's time was over"
        assert names(site) == ["venv-good0", "venv-good1", "venv-good2"]
        runner.join()
    assert "20 s" in problems(site)


def test_one_sync_at_a_time(site: Site) -> None:
    """A second sync waits for the first, no longer than it is told, and then says who is in the way."""
    from sepal_provisioner import locks

    with (
        locks.exclusive(site.store.sync_lock, timeout=0, waiting_for="the test"),
        pytest.raises(BusyError, match="sync"),
    ):
        sync(site.settings(), wait_for=0)


def test_a_store_that_cannot_be_written_is_said(site: Site) -> None:
    """A store below a file, or one this user may not write, gives StoreError with the setting to change."""
    site.add("one", {"sepal_environment.yml": CONDA})
    (site.root / "store").write_text("a file")
    with pytest.raises(StoreError, match=r"c\.Sepal\.store"):
        site.sync()


def test_the_background_process_syncs_and_tells(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m sepal_provisioner.sync` reads its settings from a private file and prints the problems."""
    site.add("one", {"sepal_environment.yml": CONDA})
    site.apps.append({"id": "bad"})
    site.write()
    request = Path(command(site.settings())[-1])
    assert request.stat().st_mode & 0o077 == 0
    assert main([str(request)]) == 0
    assert names(site) == ["venv-one"]
    assert "apps[1].label" in capsys.readouterr().err
    assert main([str(request.with_name("missing.json"))]) != 0


def test_a_logo_of_the_application_is_used(site: Site) -> None:
    """A repository's own logo becomes the kernel's; an SVG that could run a script does not."""
    from sepal_provisioner.kernelspec import RESOURCES

    png = (RESOURCES / "logo-64x64.png").read_bytes()
    site.add("nice", {"sepal_environment.yml": CONDA, "logo.png": png, "logo.svg": "<svg onload='x()'></svg>"})
    site.sync()
    assert site.store.index().get("venv-nice").resources == "venv-nice"  # type: ignore[union-attr]
    assert [path.name for path in (site.store.resources / "venv-nice").iterdir()] == ["logo-64x64.png"]


def test_credentials_never_reach_the_store(site: Site) -> None:
    """A password in a repository's or a catalog's URL is in no file that a sync writes for others."""
    site.add("one", {"sepal_environment.yml": CONDA})
    secret = "hunter2hunter2"
    url = f"http://user:{secret}@127.0.0.1:9/owner/private"
    site.apps.append({"id": "private", "label": "P", "endpoint": "jupyter", "repository": url})
    site.write()
    site.options |= {
        "repository_schemes": ["file", "http"],
        "catalogs": [str(site.catalog), f"http://user:{secret}@127.0.0.1:9/apps.json"],
    }
    site.sync()
    assert names(site) == ["venv-one"]
    written = [path for path in site.store.root.rglob("*") if path.is_file() and path.name != "sync.request.json"]
    own = [site.store.catalogs / path.name for path in site.store.catalogs.iterdir()]
    for path in written:
        if path not in own:  # the copy of a catalog holds what the catalog holds
            assert secret.encode() not in path.read_bytes(), path


@pytest.mark.skipif(not SHARED.exists(), reason="the real catalog is not beside this checkout")
def test_the_whole_real_catalog(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry of a real catalog, its repositories stood in for by local ones through git's own insteadOf, gives
    exactly the kernels that the rules say, at the branches and commits that it names."""
    document = json.loads((SHARED / "apps.test.json").read_text())
    expected = []
    for app in document["apps"]:
        url = app.get("repository", "")
        if app.get("endpoint") != "jupyter" or not url or app.get("skip"):
            continue
        name = url.rstrip("/").rsplit("/", 1)[-1]
        owner = url.rstrip("/").rsplit("/", 2)[-2]
        real = SHARED / "environments" / f"{name}.yml"
        text = real.read_text() if real.exists() and "-e ." not in real.read_text() else CONDA
        folder = site.root / "github" / owner / name
        commit(folder, {"sepal_environment.yml": text})
        if branch := app.get("branch"):
            git(folder, "branch", "--move", "--force", branch)
        expected.append(f"venv-{name.lower()}")
    config = Path(os.environ["HOME"]) / ".gitconfig"
    config.write_text(f'[url "file://{site.root}/github/"]\n\tinsteadOf = https://github.com/\n')
    site.catalog.write_bytes((SHARED / "apps.test.json").read_bytes())
    site.sync()
    assert names(site) == expected
    assert not problems(site)
    assert {"venv-gwb", "venv-deforest", "venv-esbae_notebooks"} <= set(expected)
    assert "venv-sbae-design" not in expected and "venv-se.plan" not in expected


def test_an_index_that_is_damaged_is_written_anew(site: Site) -> None:
    """A truncated index does not stop a sync, which replaces it."""
    site.add("one", {"sepal_environment.yml": CONDA})
    site.sync()
    site.store.index_path.write_text('{"version": 1, "kern')
    with pytest.raises(ValueError, match="not JSON"):
        site.store.index()
    site.sync()
    assert names(site) == ["venv-one"]


def test_git_runs_nothing_of_a_repository(site: Site) -> None:
    """A repository's hooks, put where a checkout would run them, are never run by an update."""
    site.add("one", {"sepal_environment.yml": CONDA})
    site.sync()
    checkout = site.store.apps / "one"
    hook = checkout / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {site.root}/ran\n")
    hook.chmod(0o755)
    commit(site.repository("one"), {"README": "new"})
    assert site.sync().index.kernels[0].commit == git(checkout, "rev-parse", "HEAD")
    assert (checkout / "README").exists() and not (site.root / "ran").exists()
