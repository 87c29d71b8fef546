"""The git command line, spoken here and nowhere else: one checkout brought to one commit of one repository."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .catalog import one_line, text_without_credentials, without_credentials
from .errors import RepositoryError
from .files import human_size, make_folder, remove_tree
from .process import OUTPUT_LIMIT, run

# What we fetched, and what we then checked out completely. A HEAD that is neither has commits of somebody's own.
_FETCHED = "refs/sepal/fetched"
_SYNCED = "refs/sepal/synced"
_WHOLE = 2**31 - 1  # the depth that git takes for all of a history, also of one that is shallow now
FILES_LIMIT = 200_000  # files of one checkout
BYTES_LIMIT = 10_000_000_000  # and how large they may be together
LISTING_LIMIT = 400 * FILES_LIMIT  # bytes of a list of them
GO_BACK = 30.0  # seconds for undoing an update that failed, which only reads what is here

_FLAGS = (
    # A catalog's repository is not trusted: nothing it ships may run.
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "protocol.ext.allow=never"),
    # Only what the catalog names is fetched, never what a remote advertises on the way.
    *("-c", "submodule.recurse=false"),
    *("-c", "fetch.recurseSubmodules=false"),
    *("-c", "fetch.fsckObjects=true"),
    # A server that falls silent: nobody watches a git that outlived a killed sync, and it holds the sync's lock.
    *("-c", "http.lowSpeedLimit=100"),
    *("-c", "http.lowSpeedTime=60"),
    # A shared checkout is read by other users at any time: no repacking in the background.
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
    # The same files on every machine, whatever the user's own configuration says.
    *("-c", "core.autocrlf=false"),
    *("-c", "core.fileMode=false"),
    *("-c", "core.symlinks=true"),
    *("-c", "core.quotePath=true"),
    *("-c", "advice.detachedHead=false"),
)


@dataclass(frozen=True)
class Source:
    """Where a checkout comes from. `branch` None means the remote's HEAD; `commit` wins over it."""

    url: str
    branch: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class Update:
    """What an update did: the commit that is checked out now, and where local changes were set aside."""

    commit: str
    changed: bool
    set_aside: Path | None = None


@dataclass(frozen=True)
class WorkingTree:
    """Somebody's own working tree: its origin's URL without credentials, its branch, and the files that belong to it.

    `root` is None where git knows nothing of the folder, and then the rest is empty.
    """

    root: Path | None = None
    origin: str = ""
    branch: str = ""
    files: tuple[str, ...] = ()  # tracked, and untracked but not ignored; relative to the folder that was asked about


class _InTheWayError(RepositoryError):
    """A checkout would overwrite files that git does not know."""


class Git:
    """Runs git for one checkout, all commands together within `timeout` seconds.

    `schemes` are the transports that git itself may use, submodules and redirections included, and `keep` descriptors
    that git inherits: with a lock among them, a git that outlives a killed sync still holds it.
    """

    def __init__(self, folder: Path, *, timeout: float, schemes: frozenset[str], keep: Sequence[int] = ()) -> None:
        self.folder = folder
        self._keep = keep
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._env = git_environment(schemes)

    def update(self, source: Source, aside: Path) -> Update:
        """Bring the checkout to the source's commit, cloning it when there is none.

        Local changes and commits are moved to a folder below `aside` first. Raises RepositoryError; the old checkout
        is then as it was.
        """
        if not self.folder.exists():
            return self._clone(source)
        wanted = source.commit or self._remote_commit(source)
        synced, fetched = self._ref(_SYNCED), self._ref(_FETCHED)
        if wanted == synced == self._ref("HEAD"):  # by far the most frequent case: no process but the one that asked
            return Update(wanted, changed=False)
        self._remove_old_locks()
        head, dirty = self._status()
        if head is None or head not in (synced, fetched):
            return self._clone(source, self._set_aside(aside))
        if head == wanted == synced:
            return Update(head, changed=False)
        if dirty:
            return self._clone(source, self._set_aside(aside))
        self._fetch(source, wanted)
        try:
            self._checkout(source, wanted)
        except _InTheWayError:  # an untracked file is somebody's work too: git would not overwrite it, nor do we
            return self._clone(source, self._set_aside(aside))
        except RepositoryError:
            self._go_back(source, head)
            raise
        return Update(wanted, changed=True)

    def changed_by_hand(self) -> bool:
        """Whether a checkout holds work that is nowhere else: changes, commits of its own, or files git does not know.

        A folder that git can't read counts as such work.
        """
        head, dirty = self._status()
        if head is None or dirty or head not in (self._ref(_SYNCED), self._ref(_FETCHED)):
            return True
        try:
            return bool(self._git("ls-files", "--others", "--exclude-standard", "--directory").strip())
        except RepositoryError:
            return True

    def _clone(self, source: Source, set_aside: Path | None = None) -> Update:
        """Fetch into a new folder and rename it into place."""
        final = self.folder
        temporary = final.with_name(f".{final.name}.tmp")  # one name, so that what a killed clone left is found
        remove_tree(temporary)
        make_folder(temporary)
        self.folder = temporary
        try:
            self._git("init", "--quiet", "--template=")
            wanted = source.commit or self._remote_commit(source)
            self._fetch(source, wanted)
            self._checkout(source, wanted)
            os.replace(temporary, final)
        except BaseException:
            remove_tree(temporary)
            if set_aside is not None and not final.exists():
                os.replace(set_aside, final)
            raise
        finally:
            self.folder = final
        return Update(wanted, changed=True, set_aside=set_aside)

    def _go_back(self, source: Source, commit: str) -> None:
        """Undo an update that failed half-way (a submodule that can't be had): what it needs is all here."""
        self._deadline = max(self._deadline, time.monotonic() + GO_BACK)
        with contextlib.suppress(RepositoryError):
            self._git("checkout", "--quiet", "--force", "--detach", commit, "--")
            self._checkout(source, commit)

    def _status(self) -> tuple[str | None, bool]:
        """(HEAD's commit or None when this is no sound checkout, whether tracked files were changed)."""
        try:
            text = self._git(
                "status",
                "--porcelain=v2",
                "--branch",
                "--untracked-files=no",
                "--ignore-submodules=untracked",
            )
        except RepositoryError as error:
            if "dubious ownership" in error.detail:  # git will not look at it; that says nothing about its state
                raise RepositoryError(
                    f"{self.folder} belongs to another user, and git refuses to work there. Sync as that user."
                ) from None
            return None, True
        head = re.search(r"^# branch\.oid ([0-9a-f]{40})$", text, re.MULTILINE)
        dirty = any(line and not line.startswith("#") for line in text.splitlines())
        return (head[1] if head else None), dirty

    def _ref(self, name: str) -> str | None:
        """A reference's commit. git is asked only where it keeps references elsewhere (after `git gc`)."""
        try:
            return (self.folder / ".git" / name).read_text().strip() or None
        except (OSError, UnicodeDecodeError):
            pass
        try:
            return self._git("rev-parse", "--quiet", "--verify", name).strip()
        except RepositoryError:
            return None

    def _remove_old_locks(self) -> None:
        """Remove what a killed git left; whoever calls us holds the store's sync lock, and every git of ours shares it,
        so none runs here. Where it does not, a lock gets the time that a git may take."""
        pending = [self.folder / ".git"]
        while pending:  # rglob recurses, and a submodule's name may be a thousand folders deep
            with contextlib.suppress(OSError):
                for path in pending.pop().iterdir():
                    if path.is_dir() and not path.is_symlink():
                        pending.append(path)
                    elif path.suffix == ".lock" and (self._keep or time.time() - path.lstat().st_mtime > self._timeout):
                        path.unlink()

    def _remote_commit(self, source: Source) -> str:
        ref = f"refs/heads/{source.branch}" if source.branch else "HEAD"
        text = self._git("ls-remote", "--exit-code", "--", source.url, ref, missing=source)
        for line in text.splitlines():
            commit, _, name = line.partition("\t")
            if name == ref and re.fullmatch(r"[0-9a-f]{40}", commit):
                return commit
        raise RepositoryError(f"{without_credentials(source.url)} has no {source.branch or 'HEAD'}.")

    def _fetch(self, source: Source, commit: str) -> None:
        """Fetch one commit. Servers that refuse a bare commit are asked for their branches."""
        refspec = f"+{commit}:{_FETCHED}"
        base = ("fetch", "--quiet", "--no-tags", "--force", "--update-shallow")
        try:
            self._git(*base, "--depth=1", "--", source.url, refspec)
        except RepositoryError:
            if not source.commit:
                raise
            self._git(*base, f"--depth={_WHOLE}", "--", source.url, "+refs/heads/*:refs/sepal/heads/*")
            try:
                self._git("update-ref", _FETCHED, commit)
            except RepositoryError:
                raise RepositoryError(f"{without_credentials(source.url)} has no commit {commit}.") from None

    def _checkout(self, source: Source, commit: str) -> None:
        """Check a fetched commit out, submodules included, and then say that it is complete."""
        self._measure(source, commit)
        try:
            self._git("checkout", "--quiet", "--detach", commit, "--")
        except RepositoryError as error:
            if "would be overwritten" in error.detail:
                raise _InTheWayError(error.message, detail=error.detail) from None
            raise
        if (self.folder / ".gitmodules").is_file():
            origin = _origin(source.url, self._env)
            self._git("submodule", "--quiet", "sync", "--recursive", more=origin)
            update = ("submodule", "--quiet", "update", "--init", "--recursive", "--force")
            try:
                self._git(*update, "--depth=1", more=origin)
            except (
                RepositoryError
            ):  # the commit is no branch's tip, and the server serves nothing else to a shallow clone
                self._git(*update, more=origin)
        self._git("update-ref", _SYNCED, commit)

    def _measure(self, source: Source, commit: str) -> None:
        """Refuse a commit that would fill the disk: a few kilobytes of trees can unfold into millions of files."""
        text = self._git("ls-tree", "-r", "-l", "--full-tree", commit, limit=LISTING_LIMIT)
        sizes = re.findall(r"^\d+ blob [0-9a-f]+ +(\d+)\t", text, re.MULTILINE)
        size = sum(map(int, sizes))
        if len(sizes) > FILES_LIMIT or len(text) >= LISTING_LIMIT or size > BYTES_LIMIT:
            raise RepositoryError(
                f"{without_credentials(source.url)} holds more than {FILES_LIMIT} files or {human_size(BYTES_LIMIT)}; "
                "keep its data elsewhere."
            )

    def _set_aside(self, aside: Path) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%S")
        make_folder(aside)
        for number in range(1000):
            target = aside / f"{self.folder.name}-{stamp}{f'-{number}' if number else ''}"
            if not target.exists():
                os.replace(self.folder, target)
                return target
        raise RepositoryError(f"{aside} is full of checkouts that were set aside; look at them and remove them.")

    def _git(
        self,
        *arguments: str,
        missing: Source | None = None,
        more: Mapping[str, str] = MappingProxyType({}),
        limit: int = OUTPUT_LIMIT,
    ) -> str:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise RepositoryError(f"git took longer than {self._timeout:.0f} s (c.Sepal.git_timeout).")
        try:
            done = run(
                ["git", *_FLAGS, *arguments],
                cwd=self.folder,
                env={**self._env, **more},
                timeout=left,
                keep=self._keep,
                limit=limit,
            )
        except FileNotFoundError:
            raise RepositoryError("git is not installed; install it and sync again.") from None
        if done.timed_out:
            raise RepositoryError(f"git took longer than {self._timeout:.0f} s (c.Sepal.git_timeout).")
        if done.code == 2 and missing is not None:
            what = f"no branch {missing.branch!r}" if missing.branch else "no commits"
            raise RepositoryError(f"{without_credentials(missing.url)} has {what}.")
        if done.code:
            raise RepositoryError(f"git {arguments[0]} failed: {_reason(done.stderr)}", detail=_clean(done.stderr))
        return done.stdout


def version() -> str:
    """git's version, such as `2.39.5`; empty where it is not found or does not run. For `jupyter sepal doctor`."""
    try:
        done = run(["git", "--version"], timeout=30)
    except OSError:
        return ""
    return done.stdout.strip().removeprefix("git version ") if not done.code else ""


def look_at_tree(folder: Path, *, timeout: float) -> WorkingTree:
    """What git knows about a folder, which changes nothing there; with our own flags, so that nothing in it runs."""

    def ask(*arguments: str) -> str | None:
        try:
            done = run(
                ["git", *_FLAGS, *arguments],
                cwd=folder,
                env=git_environment(frozenset()),
                timeout=timeout,
                limit=LISTING_LIMIT,
            )
        except OSError:
            return None
        return done.stdout if done.code == 0 else None

    top = ask("rev-parse", "--show-toplevel")
    if not top:
        return WorkingTree()
    return WorkingTree(
        root=Path(top.rstrip("\n")),
        origin=without_credentials((ask("config", "--get", "remote.origin.url") or "").strip()),
        branch=(ask("symbolic-ref", "--quiet", "--short", "HEAD") or "").strip(),
        files=tuple(
            name
            for name in (ask("ls-files", "-z", "--cached", "--others", "--exclude-standard") or "").split("\0")
            if name
        ),
    )


def git_environment(schemes: frozenset[str], base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that git runs in: never asks, speaks English, and is in nobody else's repository."""
    env = dict(os.environ if base is None else base)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"):
        env.pop(name, None)
    env |= {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": ":".join(sorted(schemes)),
        "GIT_ASKPASS": "true",
        "SSH_ASKPASS": "true",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "LC_ALL": "C",
    }
    env.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=20")
    return env


def _origin(url: str, env: Mapping[str, str]) -> dict[str, str]:
    """Configuration, as variables, by which git resolves a submodule's URL that is relative to its repository's.

    git writes what it resolves into the checkout: a password goes into a rule of its own, which is written nowhere.
    """
    clean = without_credentials(url)
    pairs = [("remote.origin.url", clean)]
    if clean != url:
        host = url[: url.index("/", url.index("//") + 2) + 1]
        pairs.append((f"url.{host}.insteadOf", without_credentials(host)))
    first = int(env.get("GIT_CONFIG_COUNT") or 0)
    found = {"GIT_CONFIG_COUNT": str(first + len(pairs))}
    for number, (key, value) in enumerate(pairs, first):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found


def _clean(text: str) -> str:
    return text_without_credentials(text).strip()[-4000:]


def _reason(stderr: str) -> str:
    """The line of git's output that says what happened."""
    lines = [line for line in _clean(stderr).splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(fatal|error|ERROR|remote):", line)]
    return one_line((telling or lines or ["it said nothing"])[0][:500])
