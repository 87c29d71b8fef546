"""Checkouts against real repositories: what an update brings, what it leaves alone, and what it never runs."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import commit, git

from sepal_provisioner import git as git_module
from sepal_provisioner.errors import RepositoryError
from sepal_provisioner.git import Git, Source, Update, git_environment

FILE = frozenset({"file"})
HTTP = frozenset({"http"})


class Checkout:
    """A checkout of one repository, and where local changes go."""

    def __init__(self, root: Path) -> None:
        self.remote = root / "remote" / "gwb"
        self.folder = root / "apps" / "gwb"
        self.aside = root / "aside"

    @property
    def url(self) -> str:
        """The repository's URL."""
        return f"file://{self.remote}"

    def update(
        self,
        branch: str | None = None,
        commit: str | None = None,
        url: str = "",
        *,
        schemes: frozenset[str] = FILE,
        timeout: float = 60,
    ) -> Update:
        """One update, as a sync does it."""
        return Git(self.folder, timeout=timeout, schemes=schemes).update(
            Source(url or self.url, branch, commit), self.aside
        )

    def text(self, name: str = "file") -> str:
        """The content of a file of the checkout."""
        return (self.folder / name).read_text(encoding="utf-8")

    def beside(self) -> list[str]:
        """What lies in the folder of all checkouts, temporary folders included."""
        return sorted(os.listdir(self.folder.parent)) if self.folder.parent.exists() else []

    def set_aside(self) -> list[Path]:
        """The checkouts that were set aside."""
        return sorted(self.aside.iterdir()) if self.aside.exists() else []

    def status(self) -> str:
        """What git says of the checkout's files, untracked ones included."""
        return git(self.folder, "status", "--porcelain")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A repository with one commit, not cloned yet."""
    made = Checkout(tmp_path)
    commit(made.remote, {"file": "one\n"})
    return made


# ---------------------------------------------------------------------------------------------------- what comes


def test_a_clone_is_the_remotes_head(checkout: Checkout) -> None:
    """Without a branch the checkout is the remote's HEAD, whatever that branch is called, complete and clean."""
    git(checkout.remote, "branch", "--move", "trunk")
    wanted = commit(checkout.remote, {"deep/é/file": "deep", "run": "#!/bin/sh\n"})
    (checkout.remote / "link").symlink_to("run")
    (checkout.remote / "run").chmod(0o755)
    wanted = commit(checkout.remote, {})
    assert checkout.update() == Update(wanted, changed=True)
    assert checkout.text("deep/é/file") == "deep"
    assert os.readlink(checkout.folder / "link") == "run"
    assert os.access(checkout.folder / "run", os.X_OK)
    assert checkout.status() == ""
    assert checkout.beside() == ["gwb"]
    assert checkout.set_aside() == []


def test_a_branch_is_followed(checkout: Checkout) -> None:
    """A branch is cloned, follows its remote, and can be changed for another; a tag of the same name is no branch."""
    git(checkout.remote, "tag", "release/1")
    git(checkout.remote, "checkout", "--quiet", "-b", "release/1")
    first = commit(checkout.remote, {"file": "release\n"})
    git(checkout.remote, "checkout", "--quiet", "main")
    assert checkout.update("release/1") == Update(first, changed=True)
    git(checkout.remote, "checkout", "--quiet", "refs/heads/release/1", "-B", "release/1")
    second = commit(checkout.remote, {"file": "release 2\n"})
    assert checkout.update("release/1") == Update(second, changed=True)
    assert checkout.text() == "release 2\n"
    assert checkout.update("main").changed
    assert checkout.text() == "one\n"


def test_the_remotes_head_may_move_to_another_branch(checkout: Checkout) -> None:
    """A repository whose default branch is renamed is followed."""
    checkout.update()
    git(checkout.remote, "checkout", "--quiet", "-b", "trunk")
    wanted = commit(checkout.remote, {"file": "trunk\n"})
    assert checkout.update() == Update(wanted, changed=True)
    assert checkout.text() == "trunk\n"


def test_a_pinned_commit_wins_over_branch_and_tip(checkout: Checkout) -> None:
    """A pinned commit that is no tip is checked out, stays, and can be moved forth and back."""
    pinned = git(checkout.remote, "rev-parse", "HEAD")
    tip = commit(checkout.remote, {"file": "two\n"})
    assert checkout.update("main", pinned) == Update(pinned, changed=True)
    commit(checkout.remote, {"file": "three\n"})
    assert checkout.update("main", pinned) == Update(pinned, changed=False)
    assert checkout.text() == "one\n"
    assert checkout.update("main", tip) == Update(tip, changed=True)
    assert checkout.update("main", pinned) == Update(pinned, changed=True)
    assert checkout.text() == "one\n"


def test_a_pinned_commit_is_found_where_the_server_gives_branches_only(checkout: Checkout) -> None:
    """A server that refuses to serve a bare commit is asked for its branches, which hold it."""
    pinned = git(checkout.remote, "rev-parse", "HEAD")
    commit(checkout.remote, {"file": "two\n"})
    (Path.home() / ".gitconfig").write_text("[protocol]\n\tversion = 0\n")
    refused = subprocess.run(
        ["git", "fetch", "--depth=1", checkout.url, pinned], cwd=checkout.remote, capture_output=True, check=False
    )
    assert refused.returncode != 0
    checkout.update("main")
    assert checkout.update("main", pinned) == Update(pinned, changed=True)
    assert checkout.text() == "one\n"


def test_an_update_brings_changed_new_and_removed_files(checkout: Checkout) -> None:
    """After an update the checkout holds exactly the new commit's files."""
    commit(checkout.remote, {"gone": "x", "dir/gone": "x"})
    checkout.update()
    wanted = commit(checkout.remote, {"file": "two\n", "new": "x", "gone": None, "dir/gone": None})
    assert checkout.update() == Update(wanted, changed=True)
    assert sorted(path.name for path in checkout.folder.iterdir()) == [".git", "file", "new"]
    assert checkout.status() == ""


def test_a_rewritten_history_is_followed(checkout: Checkout) -> None:
    """After a force push the checkout is what the remote now says, and nothing counts as a local change."""
    commit(checkout.remote, {"file": "two\n"})
    checkout.update()
    git(checkout.remote, "reset", "--quiet", "--hard", "HEAD~1")
    wanted = commit(checkout.remote, {"file": "other\n"})
    assert checkout.update() == Update(wanted, changed=True)
    assert checkout.text() == "other\n"


def test_the_users_own_configuration_changes_nothing(checkout: Checkout, tmp_path: Path) -> None:
    """Line ends, templates, hooks, colours and formats of a user's configuration don't reach a shared checkout."""
    hooks = tmp_path / "template" / "hooks"
    evil_hook(hooks / "post-checkout", tmp_path / "ran")
    (Path.home() / ".gitconfig").write_text(
        f"[core]\n\tautocrlf = true\n\thooksPath = {hooks}\n\tsymlinks = false\n"
        f"[init]\n\ttemplateDir = {hooks.parent}\n[color]\n\tui = always\n[status]\n\tshort = true\n"
        "[fetch]\n\tprune = true\n\trecurseSubmodules = true\n"
    )
    (checkout.remote / "link").symlink_to("file")
    commit(checkout.remote, {})
    checkout.update()
    wanted = commit(checkout.remote, {"new": "a\nb\n"})
    assert checkout.update() == Update(wanted, changed=True)
    assert (checkout.folder / "new").read_bytes() == b"a\nb\n"
    assert (checkout.folder / "link").is_symlink()
    assert not (checkout.folder / ".git" / "hooks").exists()
    assert not (tmp_path / "ran").exists()


def test_another_repositorys_variables_mislead_nobody(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was started from within a git command doesn't change that command's repository."""
    commit(tmp_path / "other", {"other": "x"})
    head = git(tmp_path / "other", "rev-parse", "HEAD")
    for name, value in {"GIT_DIR": ".git", "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": ".git/index"}.items():
        monkeypatch.setenv(name, str(tmp_path / "other" / value))
    checkout.update()
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    monkeypatch.delenv("GIT_INDEX_FILE")
    assert checkout.text() == "one\n"
    assert git(tmp_path / "other", "rev-parse", "HEAD") == head
    assert git(tmp_path / "other", "status", "--porcelain") == ""


def test_gits_environment_asks_nobody() -> None:
    """git may use the allowed transports only, speaks English, never asks for a password, and keeps the rest."""
    base = {"HOME": "/home/user", "GIT_DIR": "/x", "LANG": "de_DE", "GIT_SSH_COMMAND": "ssh -i key"}
    env = git_environment(frozenset({"ssh", "https"}), base)
    assert env["GIT_ALLOW_PROTOCOL"] == "https:ssh"
    assert (env["GIT_TERMINAL_PROMPT"], env["LC_ALL"]) == ("0", "C")
    assert (env["HOME"], env["GIT_SSH_COMMAND"]) == ("/home/user", "ssh -i key")
    assert "GIT_DIR" not in env
    assert base["GIT_DIR"] == "/x"
    assert "BatchMode=yes" in git_environment(frozenset(), {})["GIT_SSH_COMMAND"]


# ---------------------------------------------------------------------------------------------------- submodules


def add_submodule(checkout: Checkout, url: str, **more: str) -> str:
    """Add a submodule to the remote by hand, so that its URL may be anything."""
    library = checkout.remote.parent / "library"
    inner = commit(library, {"lib.py": "a = 1\n"})
    lines = ['[submodule "library"]', "\tpath = library", f"\turl = {url}"]
    lines += [f"\t{key} = {value}" for key, value in more.items()]
    (checkout.remote / ".gitmodules").write_text("\n".join(lines) + "\n")
    git(checkout.remote, "update-index", "--add", "--cacheinfo", f"160000,{inner},library")
    git(checkout.remote, "add", ".gitmodules")
    git(checkout.remote, "commit", "--quiet", "--message", "Submodule")
    return git(checkout.remote, "rev-parse", "HEAD")


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_submodules_come_along(checkout: Checkout, relative: bool) -> None:
    """A submodule is checked out and follows its repository, by an absolute URL or by one relative to the remote's."""
    checkout.update()
    url = "../library" if relative else f"file://{checkout.remote.parent}/library"
    wanted = add_submodule(checkout, url)
    assert checkout.update() == Update(wanted, changed=True)
    assert checkout.text("library/lib.py") == "a = 1\n"
    commit(checkout.remote.parent / "library", {"lib.py": "a = 2\n"})
    wanted = add_submodule(checkout, url)
    assert checkout.update() == Update(wanted, changed=True)
    assert checkout.text("library/lib.py") == "a = 1\n"
    assert checkout.update() == Update(wanted, changed=False)


def test_a_submodule_that_is_no_tip_is_found(checkout: Checkout) -> None:
    """A submodule that is pinned behind its branch's tip is checked out at its commit."""
    wanted = add_submodule(checkout, f"file://{checkout.remote.parent}/library")
    commit(checkout.remote.parent / "library", {"lib.py": "a = 2\n"})
    assert checkout.update() == Update(wanted, changed=True)
    assert checkout.text("library/lib.py") == "a = 1\n"


def test_a_submodule_that_cannot_be_fetched_leaves_the_old_checkout(checkout: Checkout) -> None:
    """When an update's submodule isn't to be had, the checkout is at its old commit with its old files, and usable."""
    checkout.update()
    before = git(checkout.folder, "rev-parse", "HEAD")
    commit(checkout.remote, {"file": "two\n", "new": "x"})
    add_submodule(checkout, f"file://{checkout.remote.parent}/library")
    shutil.rmtree(checkout.remote.parent / "library")
    with pytest.raises(RepositoryError, match="submodule"):
        checkout.update()
    assert checkout.text() == "one\n"
    assert git(checkout.folder, "rev-parse", "HEAD") == before
    assert checkout.status() == ""
    git(checkout.remote, "rm", "--quiet", "--cached", "library")
    wanted = commit(checkout.remote, {"file": "three\n"})
    assert checkout.update() == Update(wanted, changed=True)
    assert checkout.set_aside() == []


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("ext::sh -c touch% $RAN", {}),
        ("ext::sh -c 'touch $RAN >&2'", {}),
        ("--upload-pack=touch $RAN", {}),
        ("-u./payload", {}),
        ("ssh://-oProxyCommand=touch${IFS}$RAN/x", {}),
        ("../library", {"update": "!touch $RAN"}),
    ],
)
def test_a_hostile_submodule_runs_nothing(checkout: Checkout, tmp_path: Path, url: str, more: dict[str, str]) -> None:
    """A submodule whose URL or settings name a command is refused, nothing of it runs, and nothing is left."""
    ran = str(tmp_path / "ran")
    (checkout.remote / "payload").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (checkout.remote / "payload").chmod(0o755)
    commit(checkout.remote, {})
    more = {key: value.replace("$RAN", ran) for key, value in more.items()}
    add_submodule(checkout, url.replace("$RAN", ran), **more)
    with pytest.raises(RepositoryError):
        checkout.update(schemes=FILE | {"ssh"})
    assert not Path(ran).exists()
    assert checkout.beside() == []


def test_a_submodule_obeys_the_allowed_schemes(checkout: Checkout, tmp_path: Path) -> None:
    """A repository that came over http can't have the server clone a folder of its own as a submodule."""
    add_submodule(checkout, f"file://{checkout.remote.parent}/library")
    with serve_git(checkout.remote.parent) as server, pytest.raises(RepositoryError, match="'file' not allowed"):
        checkout.update(url=f"{server.url}/gwb", schemes=HTTP)
    assert checkout.beside() == []


# ------------------------------------------------------------------------------------------- what goes wrong


def intact(checkout: Checkout, words: str, **options: str) -> None:
    """An update fails with these words, and the checkout is as it was."""
    before = (git(checkout.folder, "rev-parse", "HEAD"), checkout.text(), checkout.status())
    with pytest.raises(RepositoryError, match=words) as raised:
        checkout.update(**options)  # type: ignore[arg-type]
    assert raised.value.code == "repository-failed"
    assert (git(checkout.folder, "rev-parse", "HEAD"), checkout.text(), checkout.status()) == before
    assert checkout.beside() == ["gwb"]
    assert checkout.set_aside() == []


def test_a_branch_that_was_deleted_is_an_error(checkout: Checkout) -> None:
    """A branch that is gone is named in the error, and the old checkout stays."""
    git(checkout.remote, "branch", "release")
    checkout.update("release")
    git(checkout.remote, "branch", "-D", "release")
    intact(checkout, "has no branch 'release'", branch="release")


def test_a_repository_that_vanished_is_an_error(checkout: Checkout) -> None:
    """A repository that is gone is an error, and the old checkout stays, local changes included."""
    checkout.update()
    checkout.remote.rename(checkout.remote.with_name("elsewhere"))
    intact(checkout, "remote/gwb")
    (checkout.folder / "file").write_text("mine\n")
    (checkout.folder / "new").write_text("mine\n")
    intact(checkout, "remote/gwb")


def test_a_commit_that_does_not_exist_is_an_error(checkout: Checkout) -> None:
    """A pinned commit that the repository doesn't have is an error, and the old checkout stays."""
    checkout.update()
    intact(checkout, f"gwb has no commit {'0123456789' * 4}", commit="0123456789" * 4)


def test_a_repository_without_commits_is_an_error(checkout: Checkout, tmp_path: Path) -> None:
    """An empty repository can't be cloned, and that is what the error says."""
    git(tmp_path, "init", "--quiet", "empty")
    with pytest.raises(RepositoryError, match="has no commits"):
        checkout.update(url=f"file://{tmp_path}/empty")
    assert checkout.beside() == []


@pytest.mark.parametrize(("name", "limit"), [("FILES_LIMIT", 2), ("BYTES_LIMIT", 1_000), ("LISTING_LIMIT", 100)])
def test_what_would_fill_the_disk_is_not_checked_out(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    """A commit with more files or bytes than a checkout may have is an error, and the old checkout stays."""
    checkout.update()
    commit(checkout.remote, {"a": "x" * 900, "b": "x" * 900})
    monkeypatch.setattr(git_module, name, limit)
    intact(checkout, "keep its data elsewhere")


def test_a_clone_that_fails_leaves_no_folder(checkout: Checkout, tmp_path: Path) -> None:
    """What can't be cloned leaves nothing behind, in which the next attempt could get caught."""
    with pytest.raises(RepositoryError):
        checkout.update(url=f"file://{tmp_path}/missing")
    assert checkout.beside() == []
    assert checkout.update().changed


def test_a_scheme_that_is_not_allowed_is_refused_by_git_too(checkout: Checkout) -> None:
    """Even a URL that nobody checked can't use a transport that the settings don't allow."""
    for url in (checkout.url, "ext::sh -c true", str(checkout.remote)):
        with pytest.raises(RepositoryError, match="not allowed"):
            checkout.update(url=url, schemes=frozenset({"https"}))
    assert checkout.beside() == []


# ------------------------------------------------------------------------------------------- what people changed


def test_a_local_change_is_left_alone_until_an_update_comes(checkout: Checkout) -> None:
    """A changed file stays where it is as long as there is nothing new."""
    checkout.update()
    (checkout.folder / "file").write_text("mine\n")
    assert not checkout.update().changed
    assert checkout.text() == "mine\n"
    assert checkout.set_aside() == []


@pytest.mark.parametrize("how", ["changed", "staged", "deleted", "renamed"])
def test_a_local_change_is_set_aside_and_reported_when_an_update_comes(checkout: Checkout, how: str) -> None:
    """A changed checkout is moved aside as it is, untracked files included, and the new one is clean."""
    checkout.update()
    (checkout.folder / "notes").write_text("mine\n")
    if how in ("changed", "staged"):
        (checkout.folder / "file").write_text("mine\n")
    if how == "staged":
        git(checkout.folder, "add", "file")
    if how == "deleted":
        (checkout.folder / "file").unlink()
    if how == "renamed":
        git(checkout.folder, "mv", "file", "moved")
    wanted = commit(checkout.remote, {"file": "two\n"})
    update = checkout.update()
    assert (update.commit, update.changed) == (wanted, True)
    assert checkout.set_aside() == [update.set_aside]
    assert update.set_aside is not None
    assert update.set_aside.name.startswith("gwb-")
    assert (update.set_aside / "notes").read_text() == "mine\n"
    if how in ("changed", "staged"):
        assert (update.set_aside / "file").read_text() == "mine\n"
    assert checkout.text() == "two\n"
    assert checkout.status() == ""
    assert not checkout.update().changed


@pytest.mark.parametrize("new", [False, True], ids=["nothing new", "an update"])
def test_a_local_commit_is_set_aside(checkout: Checkout, new: bool) -> None:
    """A commit that somebody made in the checkout is set aside with its history, and the remote's state is back."""
    checkout.update()
    mine = commit(checkout.folder, {"file": "mine\n"})
    if new:
        commit(checkout.remote, {"file": "two\n"})
    update = checkout.update()
    assert update.set_aside is not None
    assert git(update.set_aside, "rev-parse", "HEAD") == mine
    assert checkout.text() == ("two\n" if new else "one\n")


def test_two_changes_within_a_second_are_both_kept(checkout: Checkout) -> None:
    """What is set aside never overwrites what was set aside before."""
    checkout.update()
    for number in range(3):
        (checkout.folder / "file").write_text(f"mine {number}\n")
        commit(checkout.remote, {"file": f"new {number}\n"})
        checkout.update()
    found = sorted((folder / "file").read_text() for folder in checkout.set_aside())
    assert found == ["mine 0\n", "mine 1\n", "mine 2\n"]


def test_an_untracked_file_in_the_way_is_set_aside(checkout: Checkout) -> None:
    """A file that an update would overwrite is somebody's work: it is kept with the checkout that is set aside."""
    checkout.update()
    (checkout.folder / "new").write_text("mine\n")
    commit(checkout.remote, {"new": "theirs\n"})
    update = checkout.update()
    assert update.set_aside is not None
    assert (update.set_aside / "new").read_text() == "mine\n"
    assert checkout.text("new") == "theirs\n"


def test_untracked_files_elsewhere_survive(checkout: Checkout) -> None:
    """Results that a notebook wrote into the checkout, ignored ones too, are there after an update."""
    commit(checkout.remote, {".gitignore": "*.tif\n", "results/README": "x"})
    checkout.update()
    (checkout.folder / "results" / "mine.tif").write_text("mine\n")
    (checkout.folder / "mine").mkdir()
    (checkout.folder / "mine" / "notes").write_text("mine\n")
    commit(checkout.remote, {"file": "two\n"})
    update = checkout.update()
    assert (update.changed, update.set_aside) == (True, None)
    assert (checkout.text(), checkout.text("results/mine.tif"), checkout.text("mine/notes")) == (
        "two\n",
        "mine\n",
        "mine\n",
    )


def test_changes_return_when_the_new_clone_fails(checkout: Checkout) -> None:
    """When the checkout was set aside and its successor can't be made, it is back in its place."""
    checkout.update()
    (checkout.folder / "file").write_text("mine\n")
    add_submodule(checkout, "ext::sh -c true")
    with pytest.raises(RepositoryError):
        checkout.update()
    assert checkout.text() == "mine\n"
    assert checkout.set_aside() == []
    assert checkout.beside() == ["gwb"]


# -------------------------------------------------------------------------------------- what a killed run left


@pytest.mark.parametrize("damage", ["no .git", "no HEAD", "empty index", "no objects"])
def test_a_damaged_checkout_is_set_aside_and_made_anew(checkout: Checkout, damage: str) -> None:
    """A folder that is no sound checkout any more is kept aside, and a sound one stands in its place."""
    checkout.update()
    (checkout.folder / "notes").write_text("mine\n")
    if damage == "no .git":
        shutil.rmtree(checkout.folder / ".git")
    if damage == "no HEAD":
        (checkout.folder / ".git" / "HEAD").write_text("")
    if damage == "empty index":
        (checkout.folder / ".git" / "index").write_text("")
    if damage == "no objects":
        shutil.rmtree(checkout.folder / ".git" / "objects")
    wanted = commit(checkout.remote, {"file": "two\n"})
    update = checkout.update()
    assert (update.commit, update.changed) == (wanted, True)
    assert update.set_aside is not None
    assert (update.set_aside / "notes").read_text() == "mine\n"
    assert checkout.text() == "two\n"
    assert checkout.status() == ""


def test_a_repository_around_the_store_is_left_alone(checkout: Checkout, tmp_path: Path) -> None:
    """Where the store lies inside somebody's repository, a checkout without its own .git doesn't touch that one."""
    outer = commit(tmp_path, {".gitignore": "*\n"})
    checkout.update()
    shutil.rmtree(checkout.folder / ".git")
    update = checkout.update()
    assert update.set_aside is not None
    assert git(tmp_path, "rev-parse", "HEAD") == outer
    assert git(tmp_path, "for-each-ref") == f"{outer} commit\trefs/heads/main"


@pytest.mark.parametrize("lock", ["index.lock", "HEAD.lock", "shallow.lock", "refs/sepal/synced.lock"])
def test_an_old_lock_of_a_killed_git_is_removed(checkout: Checkout, lock: str) -> None:
    """A lock file that is older than any running git can be doesn't stop updates for ever."""
    checkout.update()
    path = checkout.folder / ".git" / lock
    path.touch()
    os.utime(path, (time.time() - 3_600,) * 2)
    wanted = commit(checkout.remote, {"file": "two\n"})
    assert checkout.update() == Update(wanted, changed=True)
    assert not path.exists()


def test_a_fresh_lock_is_respected(checkout: Checkout) -> None:
    """While somebody's git works in the checkout the update fails with what git says, and nothing is lost."""
    checkout.update()
    (checkout.folder / ".git" / "index.lock").touch()
    commit(checkout.remote, {"file": "two\n"})
    intact(checkout, r"index\.lock")
    (checkout.folder / ".git" / "index.lock").unlink()
    assert checkout.update().changed


def test_a_checkout_that_was_tidied_up_is_no_local_change(checkout: Checkout) -> None:
    """After `git gc`, which packs references away, an update is an update."""
    checkout.update()
    git(checkout.folder, "gc", "--quiet")
    assert not (checkout.folder / ".git" / "refs" / "sepal" / "synced").exists()
    assert checkout.update().set_aside is None
    wanted = commit(checkout.remote, {"file": "two\n"})
    git(checkout.folder, "pack-refs", "--all")
    assert checkout.update() == Update(wanted, changed=True)


UPDATE = """
import json, sys
from pathlib import Path
from sepal_provisioner.git import Git, Source
folder, url = sys.argv[1:]
Git(Path(folder), timeout=60, schemes=frozenset({"http"})).update(Source(url), Path(folder).parent / "aside")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_clone_leaves_no_folder(checkout: Checkout, how: signal.Signals) -> None:
    """A clone that is interrupted leaves nothing; of one that is killed, the next update removes what is left."""
    with hanging_server() as (port, connected):
        command = [sys.executable, "-c", UPDATE, str(checkout.folder), f"http://127.0.0.1:{port}/owner/gwb"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            assert connected.wait(60)
            assert checkout.beside() != []
            process.send_signal(how)
            assert process.wait(60) != 0
        if how == signal.SIGINT:
            assert checkout.beside() == []
    checkout.update()
    assert checkout.beside() == ["gwb"]


# ----------------------------------------------------------------------------------------------------- hooks


def evil_hook(path: Path, trace: Path) -> None:
    """A hook that leaves a trace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ntouch {trace}\n")
    path.chmod(0o755)


HOOKS = [
    "post-checkout",
    "reference-transaction",
    "post-index-change",
    "pre-auto-gc",
    "post-merge",
    "fsmonitor-watchman",
]


def test_no_hook_ever_runs(checkout: Checkout, tmp_path: Path) -> None:
    """A hook in the checkout, in its configuration, in the remote or in a submodule is never run by an update."""
    add_submodule(checkout, "../library")
    checkout.update()
    folders = {
        "checkout": checkout.folder / ".git" / "hooks",
        "configured": tmp_path / "configured",
        "remote": checkout.remote / ".git" / "hooks",
        "submodule": checkout.folder / ".git" / "modules" / "library" / "hooks",
    }
    commit(checkout.remote.parent / "library", {"lib.py": "a = 2\n"})
    add_submodule(checkout, "../library")
    traces = tmp_path / "traces"
    traces.mkdir()
    for where, folder in folders.items():
        for name in HOOKS:
            evil_hook(folder / name, traces / f"{where}-{name}")
    git(checkout.folder / "library", "checkout", "--quiet", "--detach", "HEAD")
    assert os.listdir(traces) != [], "a git that isn't told otherwise runs them"
    shutil.rmtree(traces)
    traces.mkdir()
    git(checkout.folder, "config", "core.fsmonitor", str(folders["configured"] / "fsmonitor-watchman"))
    assert checkout.update().changed
    assert os.listdir(traces) == []
    git(checkout.folder, "config", "core.hooksPath", str(folders["configured"]))
    git(checkout.remote, "-c", "core.hooksPath=/dev/null", "commit", "--quiet", "--allow-empty", "--message", "New")
    assert checkout.update().changed
    assert os.listdir(traces) == []


# ------------------------------------------------------------------------------------------------------ servers


class GitHandler(BaseHTTPRequestHandler):
    """Serves repositories over http as git's own CGI program does, behind a password where there is one."""

    server: GitServer

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(self.path if self.command == "GET" else body.decode(errors="replace"))
        if self.server.password and self.headers.get("Authorization") != self.server.password:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class GitServer(ThreadingHTTPServer):
    """A git server on loopback; `asked` is what it was asked: a GET's path, a POST's body."""

    def __init__(self, root: Path, user: str) -> None:
        super().__init__(("127.0.0.1", 0), GitHandler)
        self.root = root
        self.asked: list[str] = []
        self.password = f"Basic {base64.b64encode(user.encode()).decode()}" if user else ""
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve_git(root: Path, user: str = "") -> Iterator[GitServer]:
    """Serve the repositories of a folder; `user` is `name:password` where one is needed."""
    with GitServer(root, user) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def hanging_server() -> Iterator[tuple[int, threading.Event]]:
    """A port that takes connections and never says a word: (the port, an event for the first connection)."""
    connected = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return
                connected.set()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1], connected
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


def test_a_server_that_never_answers_ends_with_the_time_limit(checkout: Checkout) -> None:
    """A server that hangs costs the time limit, the error names the setting, and the old checkout stays."""
    checkout.update()
    with hanging_server() as (port, connected):
        intact_with = {"url": f"http://127.0.0.1:{port}/owner/gwb"}
        with pytest.raises(RepositoryError, match=r"took longer than 4 s .c\.Sepal\.git_timeout"):
            checkout.update(schemes=HTTP, timeout=4, **intact_with)
        assert connected.is_set()
    assert checkout.text() == "one\n"
    assert checkout.beside() == ["gwb"]


def test_nothing_is_fetched_when_nothing_changed(checkout: Checkout) -> None:
    """An update without news asks the server for its references and never for objects; a pinned one asks nothing."""
    with serve_git(checkout.remote.parent) as server:
        url = f"{server.url}/gwb"
        first = checkout.update("main", url=url, schemes=HTTP)
        assert any("command=fetch" in asked for asked in server.asked)
        server.asked.clear()
        assert checkout.update("main", url=url, schemes=HTTP) == Update(first.commit, changed=False)
        assert server.asked != []
        assert not any("command=fetch" in asked for asked in server.asked)
        server.asked.clear()
        assert checkout.update("main", first.commit, url, schemes=HTTP) == Update(first.commit, changed=False)
        assert server.asked == []


def test_only_the_wanted_commit_is_fetched(checkout: Checkout) -> None:
    """A clone holds one commit, not a history of many years, and neither do its updates."""
    for number in range(5):
        commit(checkout.remote, {"file": f"{number}\n"})
    with serve_git(checkout.remote.parent) as server:
        checkout.update(url=f"{server.url}/gwb", schemes=HTTP)
        assert git(checkout.folder, "rev-list", "--count", "HEAD") == "1"
        commit(checkout.remote, {"file": "new\n"})
        checkout.update(url=f"{server.url}/gwb", schemes=HTTP)
    assert git(checkout.folder, "rev-list", "--count", "HEAD") == "1"


SECRET = "hunter2+hunter2"


def files_with(folder: Path, text: str) -> list[Path]:
    """The files below a folder that hold a text."""
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_password_is_used_and_kept_nowhere(checkout: Checkout) -> None:
    """A repository behind a password is cloned and updated with its submodule, and no file keeps the password."""
    add_submodule(checkout, "../library")
    with serve_git(checkout.remote.parent, f"user:{SECRET}") as server:
        url = server.url.replace("//", f"//user:{SECRET}@") + "/gwb"
        checkout.update(url=url, schemes=HTTP)
        assert checkout.text("library/lib.py") == "a = 1\n"
        commit(checkout.remote, {"file": "two\n"})
        assert checkout.update(url=url, schemes=HTTP).changed
    assert files_with(checkout.folder.parent, SECRET) == []


def test_a_password_is_in_no_message(checkout: Checkout) -> None:
    """Whatever goes wrong with a repository behind a password, neither message nor detail shows it."""
    with serve_git(checkout.remote.parent, "user:other") as server:
        port = server.server_port
        urls = [f"http://user:{SECRET}@127.0.0.1:{port}/gwb", f"http://user:{SECRET}@127.0.0.1:{port}/missing"]
        urls += [f"http://user:{SECRET}@127.0.0.1:1/gwb", f"https://user:{SECRET}@127.0.0.1:{port}/gwb"]
        for url in urls:
            with pytest.raises(RepositoryError) as raised:
                checkout.update(url=url, schemes=HTTP)
            assert SECRET not in str(raised.value)
            assert "user" not in raised.value.message
        server.password = f"Basic {base64.b64encode(f'user:{SECRET}'.encode()).decode()}"
        for name, branch in (("gwb", "missing"), ("missing", "main")):
            with pytest.raises(RepositoryError) as raised:
                checkout.update(branch, url=f"http://user:{SECRET}@127.0.0.1:{port}/{name}", schemes=HTTP)
            assert SECRET not in str(raised.value)


def test_a_password_that_git_itself_prints_is_taken_out(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions of git that print the URL as it is, in quotes, are no leak."""
    said = f"fatal: unable to access 'https://user:{SECRET}@host/owner/gwb/': The requested URL returned error: 500"
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho {json.dumps(said)} >&2\nexit 128\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(RepositoryError) as raised:
        checkout.update()
    assert "https://host/owner/gwb/" in raised.value.message
    assert SECRET not in str(raised.value)


def test_without_git_the_error_says_so(checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where git isn't installed the error says that, and no folder is left."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RepositoryError, match="git is not installed"):
        checkout.update()
    assert checkout.beside() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a checkout to another user")
def test_another_users_checkout_is_left_alone(tmp_path: Path) -> None:
    """git refuses to look at a checkout that another user owns: that is told, and the checkout stays where it is."""
    source = tmp_path / "source"
    commit(source, {"file": "1"})
    checkout = tmp_path / "apps" / "one"
    schemes = frozenset({"file"})
    Git(checkout, timeout=30, schemes=schemes).update(Source(f"file://{source}"), tmp_path / "aside")
    for path in (checkout, *checkout.rglob("*")):
        os.lchown(path, 12345, 12345)
    commit(source, {"file": "2"})
    with pytest.raises(RepositoryError, match="belongs to another user"):
        Git(checkout, timeout=30, schemes=schemes).update(Source(f"file://{source}"), tmp_path / "aside")
    assert (checkout / "file").is_file() and not (tmp_path / "aside").exists()
