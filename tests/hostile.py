"""Seeds of hostile catalogs and repositories: what each tries, how it is made, and what has to come of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import GIT, Site, commit, git

SECRET = "hunter2-correct-horse"
CONDA = "channels: [conda-forge]\ndependencies: [python]\n"
PROJECT = "[project]\nname = 'pkg'\nversion = '1'\n"
NAME = "evil"  # of the repository, where a seed doesn't name it


@dataclass(frozen=True)
class Ground:
    """Where a seed is planted: a site whose first catalog names a good application, and a second catalog of its own.

    `ran` is what a command that is run would create, `outside` a folder that nobody may read or change.
    """

    site: Site
    outside: Path
    ran: Path

    @property
    def catalog(self) -> Path:
        """The hostile catalog."""
        return self.site.root / "hostile.json"

    @property
    def repository(self) -> Path:
        """The hostile repository."""
        return self.site.repository(NAME)

    def fill(self, text: str) -> str:
        """A text with this ground's paths and the secret in it."""
        for word, value in (("$RAN", self.ran), ("$OUTSIDE", self.outside), ("$SECRET", SECRET)):
            text = text.replace(word, str(value))
        return text

    def entry(self, **changes: Any) -> dict[str, Any]:
        """A sound catalog entry of the hostile repository, with these keys changed."""
        url = f"file://{self.repository}"
        return {"id": NAME, "label": "Evil", "endpoint": "jupyter", "repository": url, **changes}

    def write(self, *entries: Any) -> None:
        """Write the hostile catalog."""
        self.catalog.write_text(json.dumps({"apps": list(entries)}), encoding="utf-8")


@dataclass(frozen=True)
class Seed:
    """A hostile catalog or repository.

    `expected` is an error's code, `entry` (the entry is refused; `words` is the key's place), `listed`, or `no kernel`.
    `words` have to stand in a problem. `later` is done to the checkout between two syncs.
    """

    name: str
    tries: str
    plant: Callable[[Ground], object]
    expected: str
    words: str = ""
    later: Callable[[Ground, Path], object] | None = None
    http: bool = False  # the repositories come over http, and only http is allowed


# ------------------------------------------------------------------------------------------------- ways to plant


def keys(**changes: Any) -> Callable[[Ground], None]:
    """A sound repository behind an entry with these keys."""

    def plant(ground: Ground) -> None:
        commit(ground.repository, {"sepal_environment.yml": CONDA})
        filled = {key: ground.fill(value) if isinstance(value, str) else value for key, value in changes.items()}
        ground.write(ground.entry(**filled))

    return plant


def url(text: str) -> Callable[[Ground], None]:
    """An entry with this repository."""
    return keys(repository=text)


def document(data: bytes) -> Callable[[Ground], object]:
    """A catalog of these bytes."""
    return lambda ground: ground.catalog.write_bytes(data)


def entries(make: Callable[[Ground], list[Any]]) -> Callable[[Ground], None]:
    """A sound repository behind a catalog of these entries."""

    def plant(ground: Ground) -> None:
        commit(ground.repository, {"sepal_environment.yml": CONDA})
        ground.write(*make(ground))

    return plant


def files(
    content: dict[str, str | bytes], links: dict[str, str] | None = None, environment: str = CONDA
) -> Callable[[Ground], None]:
    """A repository with these files and links beside its environment file."""

    def plant(ground: Ground) -> None:
        filled = {
            name: ground.fill(data) if isinstance(data, str) else data
            for name, data in {"sepal_environment.yml": environment, **content}.items()
        }
        commit(ground.repository, filled)
        for name, target in (links or {}).items():
            path = ground.repository / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(ground.fill(target))
        commit(ground.repository, {})
        ground.write(ground.entry())

    return plant


def conda(text: str) -> Callable[[Ground], None]:
    """A repository with this environment file."""
    return files({}, environment=text)


def pip(*lines: str, links: dict[str, str] | None = None, **content: str) -> Callable[[Ground], None]:
    """A repository whose environment file has these pip lines; of file names in `content` `__` is a dot."""
    text = "dependencies:\n  - python\n  - pip:\n" + "".join(f"    - {json.dumps(line)}\n" for line in lines)
    return files({name.replace("__", "."): data for name, data in content.items()}, links, text)


def requirements(text: str, more: dict[str, str | bytes] | None = None) -> Callable[[Ground], None]:
    """A repository that ships this requirements.txt."""

    def plant(ground: Ground) -> None:
        commit(ground.repository, {"requirements.txt": ground.fill(text), **(more or {})})
        ground.write(ground.entry())

    return plant


def plumb(folder: Path, *arguments: str, data: bytes = b"") -> str:
    """git's plumbing, which makes what no `git add` would."""
    done = subprocess.run([*GIT, *arguments], cwd=folder, input=data, capture_output=True, check=True)
    return done.stdout.decode().strip()


def tree(make: Callable[[Path, str], list[tuple[str, str, str, bytes]]]) -> Callable[[Ground], None]:
    """A repository whose commit has these (mode, kind, object, name) beside its environment file, checked by nobody;
    `make` gets the repository and an object with a harmless text."""

    def plant(ground: Ground) -> None:
        folder = ground.repository
        commit(folder, {"sepal_environment.yml": CONDA})
        blob = plumb(folder, "hash-object", "-w", "--stdin", data=b"text\n")
        own = plumb(folder, "hash-object", "-w", "--stdin", data=CONDA.encode())
        lines = [("100644", "blob", own, b"sepal_environment.yml"), *make(folder, blob)]
        advance(folder, make_tree(folder, lines))
        ground.write(ground.entry())

    return plant


def make_tree(folder: Path, lines: list[tuple[str, str, str, bytes]]) -> str:
    """A tree object of (mode, kind, object, name)."""
    data = b"".join(f"{mode} {kind} {sha}\t".encode() + name + b"\0" for mode, kind, sha, name in lines)
    return plumb(folder, "mktree", "-z", "--missing", data=data)


def advance(folder: Path, made: str) -> None:
    """Let the branch point to a commit of this tree."""
    git(folder, "update-ref", "HEAD", plumb(folder, "commit-tree", "-m", "Change", made))


def nested(name: bytes, inner: bytes) -> Callable[[Ground], None]:
    """A folder of this name with one file, as a tree that no working folder could be."""
    return tree(lambda folder, blob: [("40000", "tree", make_tree(folder, [("100644", "blob", blob, inner)]), name)])


def link_entry(name: str, target: str) -> Callable[[Ground], None]:
    """A link at the root, made by plumbing, for names that matter to git itself."""

    def make(folder: Path, blob: str) -> list[tuple[str, str, str, bytes]]:
        return [("120000", "blob", plumb(folder, "hash-object", "-w", "--stdin", data=target.encode()), name.encode())]

    return tree(make)


def attributes(line: str) -> Callable[[Ground], None]:
    """A .gitattributes of this line, made by plumbing: git itself would heed it while it adds the files."""

    def make(folder: Path, blob: str) -> list[tuple[str, str, str, bytes]]:
        made = plumb(folder, "hash-object", "-w", "--stdin", data=f"{line}\n".encode())
        return [("100644", "blob", made, b".gitattributes")]

    return tree(make)


def submodule(text: str, path: str = "library") -> Callable[[Ground], None]:
    """A repository with a submodule that `.gitmodules` describes so; `$LIBRARY` is a sound repository."""

    def plant(ground: Ground) -> None:
        folder, library = ground.repository, ground.site.repository("library")
        inner = commit(library, {"lib.py": "a = 1\n", "hooks/post-checkout": f"#!/bin/sh\ntouch {ground.ran}\n"})
        (library / "hooks" / "post-checkout").chmod(0o755)
        commit(library, {})
        commit(folder, {"sepal_environment.yml": CONDA, "payload": f"#!/bin/sh\ntouch {ground.ran}\n"})
        (folder / "payload").chmod(0o755)
        (folder / ".gitmodules").write_text(ground.fill(text).replace("$LIBRARY", str(library)), encoding="utf-8")
        git(folder, "update-index", "--add", "--cacheinfo", f"160000,{inner},{path}")
        git(folder, "add", ".gitmodules", "payload")
        git(folder, "commit", "--quiet", "--message", "Submodule")
        ground.write(ground.entry())

    return plant


def module(url: str, name: str = "library", path: str = "library", more: str = "") -> str:
    """A section of .gitmodules."""
    return f'[submodule "{name}"]\n\tpath = {path}\n\turl = {url}\n{more}'


def deep(levels: int) -> Callable[[Ground], None]:
    """A repository with a file that many folders deep."""

    def plant(ground: Ground) -> None:
        folder = ground.repository
        commit(folder, {"sepal_environment.yml": pip_file("./"), "pyproject.toml": PROJECT})
        bury(folder, levels)
        ground.write(ground.entry())

    return plant


def bury(folder: Path, levels: int) -> None:
    """Add a file that many folders deep to what is committed."""
    made = plumb(folder, "hash-object", "-w", "--stdin", data=b"text\n")
    plumb(folder, "update-index", "--index-info", data=f"100644 {made}\t{'d/' * levels}file\n".encode())
    advance(folder, plumb(folder, "write-tree"))


def pip_file(line: str) -> str:
    """An environment file with one pip line."""
    return f"dependencies:\n  - python\n  - pip:\n    - {json.dumps(line)}\n"


def bomb(ground: Ground) -> None:
    """A million files in six trees of ten entries each."""
    folder = ground.repository
    commit(folder, {"sepal_environment.yml": CONDA})
    made, kind, mode = plumb(folder, "hash-object", "-w", "--stdin", data=b"text\n"), "blob", "100644"
    for _ in range(6):
        made = make_tree(folder, [(mode, kind, made, b"%d" % number) for number in range(10)])
        kind, mode = "tree", "40000"
    own = plumb(folder, "hash-object", "-w", "--stdin", data=CONDA.encode())
    advance(folder, make_tree(folder, [("100644", "blob", own, b"sepal_environment.yml"), (mode, kind, made, b"x")]))
    ground.write(ground.entry())


def odd_references(ground: Ground) -> None:
    """A repository whose HEAD and other references are called like options."""
    made = commit(ground.repository, {"sepal_environment.yml": CONDA})
    for name in ("refs/heads/-x", "refs/heads/--upload-pack=touch", "refs/tags/-x", "refs/heads/a;touch"):
        git(ground.repository, "update-ref", name, made)
    git(ground.repository, "symbolic-ref", "HEAD", "refs/heads/-x")
    ground.write(ground.entry())


def odd_names(ground: Ground) -> None:
    """A local package with files whose names are no text, and a link out of the repository that is called so."""
    for name in (b"new\nline", b"esc\x1b[31m", b"not\xff\xfeutf8", b"-rf", b"$(touch x)"):
        path = os.fsencode(ground.repository) + b"/pkg/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(b"x")
    commit(ground.repository, {"sepal_environment.yml": pip_file("./pkg"), "pkg/setup.py": ""})
    ground.write(ground.entry())


def odd_link(ground: Ground) -> None:
    """A link out of a package, named with a line end and an escape sequence."""
    odd_names(ground)
    (ground.repository / "pkg" / "bad\nname\x1b[31m").symlink_to(ground.outside / "secret.txt")
    commit(ground.repository, {})


def sparse(name: str) -> Callable[[Ground, Path], None]:
    """Replace a file of the checkout by one of 400 MB that takes no room."""

    def later(ground: Ground, checkout: Path) -> None:
        (checkout / name).unlink(missing_ok=True)
        with (checkout / name).open("wb") as stream:
            stream.truncate(400_000_000)

    return later


def fifo(ground: Ground, checkout: Path) -> None:
    """Replace the environment file by a FIFO."""
    (checkout / "sepal_environment.yml").unlink()
    os.mkfifo(checkout / "sepal_environment.yml")


def configured(ground: Ground, checkout: Path) -> None:
    """Give the checkout hooks, and let its repository move on, so that the next sync updates it."""
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        hook = checkout / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {ground.ran}\n")
        hook.chmod(0o755)
    commit(ground.repository, {"more": "x"})


BAD_TYPES: tuple[tuple[str, Any], ...] = (
    *(("id", value) for value in (None, 1, [], {}, "", " ", "a\nb", "\ud800", "x" * 3000)),
    *(("label", value) for value in (None, 1, [], {}, "", "\x1b[31m", "\u202eevil", "x" * 3000)),
    *(("endpoint", value) for value in (1, [], {}, "x" * 3000)),
    *(("repository", value) for value in (1, ["https://h/o/n"], {"url": "x"}, True)),
    *(("branch", value) for value in (1, [], {}, 1.5)),
    *(("commit", value) for value in (1, [], {}, 10**50)),
    *(("hidden", value) for value in (1, "yes", [], None)),
    *(("skip", value) for value in (0, "no", {}, None)),
)
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
CONFIG = "[core]\n\tfsmonitor = touch $RAN\n\thooksPath = hooks\n\tsshCommand = touch $RAN\n"
CONFIG += '[filter "evil"]\n\tsmudge = touch $RAN\n\tclean = touch $RAN\n\tprocess = touch $RAN\n\trequired = true\n'
HOOK = "#!/bin/sh\ntouch $RAN\n"
IFS = "${IFS}"

REFUSED = "entry"
INVALID = "catalog-invalid"
FAILED = "repository-failed"
FILE = "environment-file"
LISTED = "listed"
NOTHING = "no kernel"
REPOSITORY, BRANCH, COMMIT = "apps[0].repository", "apps[0].branch", "apps[0].commit"
RUN = "run a command"
LEAVE = "read or write outside the store"

SEEDS: tuple[Seed, ...] = (
    # ------------------------------------------------------------------------------------------ repository URLs
    Seed("ext-helper", RUN, url("ext::sh -c touch% $RAN"), REFUSED, REPOSITORY),
    Seed("ext-helper-without-blanks", RUN, url(f"ext::touch{IFS}$RAN"), REFUSED, REPOSITORY),
    Seed("ext-helper-in-capitals", RUN, url(f"EXT::touch{IFS}$RAN"), REFUSED, REPOSITORY),
    Seed("fd-helper", "read a descriptor of ours", url("fd::17"), REFUSED, REPOSITORY),
    Seed("url-upload-pack", RUN, url(f"--upload-pack=touch{IFS}$RAN"), REFUSED, REPOSITORY),
    Seed("url-short-option", RUN, url("-u./payload"), REFUSED, REPOSITORY),
    Seed("url-dots", LEAVE, url("../.."), REFUSED, REPOSITORY),
    Seed("url-absolute-path", LEAVE, url("/etc"), REFUSED, REPOSITORY),
    Seed("url-http-not-allowed", "be read by others on the way", url("http://host/owner/name"), REFUSED, REPOSITORY),
    Seed("url-file-not-allowed", LEAVE, keys(), REFUSED, REPOSITORY, http=True),
    Seed("url-file-in-capitals", LEAVE, url("FILE://$OUTSIDE/repository"), FAILED, NAME),
    Seed("url-newline", "add a line to a log", url("https://host/owner/name\nfatal"), REFUSED, REPOSITORY),
    Seed("url-nul", "end a text early", url("https://host/owner/name\0"), REFUSED, REPOSITORY),
    Seed("url-escape", "colour a terminal", url("https://host/\x1b[31m/name"), REFUSED, REPOSITORY),
    Seed("url-turned-around", "look like another URL", url("https://host/\u202eeman/name"), REFUSED, REPOSITORY),
    Seed("url-cyrillic-scheme", "look like https", url("http\u0441://host/owner/name"), REFUSED, REPOSITORY),
    Seed("url-cyrillic-name", "look like another kernel", url("https://host/owner/g\u043eod"), REFUSED, REPOSITORY),
    Seed("url-host-that-changes", "become another host", url("https://host\u2100evil/owner/name"), REFUSED, REPOSITORY),
    Seed("url-password", "leave a password in messages", url("https://user:$SECRET@127.0.0.1:9/owner/x"), FAILED, NAME),
    Seed("url-torn-password", "leave a password in messages", url("https://user:$SECRET/x@127.0.0.1:9/o/n"), FAILED),
    Seed("url-password-refused", "leave a password", url("ftp://user:$SECRET@host/owner/name"), REFUSED, REPOSITORY),
    Seed("url-long", "fill the index", url("https://host/" + "x" * 100_000), REFUSED, REPOSITORY),
    Seed("url-host-option", RUN, url(f"ssh://-oProxyCommand=touch{IFS}$RAN/owner/name"), REFUSED, REPOSITORY),
    Seed("url-user-option", RUN, url(f"ssh://-oProxyCommand=touch{IFS}ran@host/owner/name"), FAILED, "blocked"),
    Seed("url-scp-option", RUN, url("git@-oProxyCommand:owner/name"), REFUSED, REPOSITORY),
    Seed("url-query", "have an option behind it", url("https://host/owner/name?--x"), REFUSED, REPOSITORY),
    # ---------------------------------------------------------------------------------------------------- names
    Seed("name-dots", LEAVE, url("https://host/owner/.."), REFUSED, REPOSITORY),
    Seed("name-dots-and-slashes", LEAVE, url("https://host/owner/..//"), REFUSED, REPOSITORY),
    Seed("name-git", "become git's own folder", url("https://host/owner/.git"), REFUSED, REPOSITORY),
    Seed("name-hidden", "become a hidden folder", url("https://host/owner/.evil.tmp"), REFUSED, REPOSITORY),
    Seed("name-empty", "become the folder of all checkouts", url("https://host/"), REFUSED, REPOSITORY),
    Seed("name-escaped-dots", LEAVE, url("https://host/owner/%2e%2e"), REFUSED, REPOSITORY),
    Seed("name-backslashes", LEAVE, url("https://host/owner/..\\..\\x"), REFUSED, REPOSITORY),
    Seed("name-long", "make paths too long", url("https://host/owner/" + "x" * 101), REFUSED, REPOSITORY),
    Seed("name-option", "become an option", url("https://host/owner/-rf"), REFUSED, REPOSITORY),
    Seed("name-taken", "take another's kernel", url("https://host/owner/GOOD"), REFUSED, "venv-good is already taken"),
    # ---------------------------------------------------------------------------------------- branches, commits
    Seed("branch-option", RUN, keys(branch="--upload-pack=touch $RAN"), REFUSED, BRANCH),
    Seed("branch-short-option", RUN, keys(branch="-x"), REFUSED, BRANCH),
    Seed("branch-dots", "name another reference", keys(branch="refs/../.."), REFUSED, BRANCH),
    Seed("branch-reflog", "name another reference", keys(branch="@{-1}"), REFUSED, BRANCH),
    Seed("branch-blank", "become two arguments", keys(branch="a b"), REFUSED, BRANCH),
    Seed("branch-newline", "add a line", keys(branch="main\nevil"), REFUSED, BRANCH),
    Seed("branch-refspec", "write another reference", keys(branch="main:refs/heads/evil"), REFUSED, BRANCH),
    Seed("branch-forced", "force a reference", keys(branch="+main"), FAILED, "+main"),
    Seed("branch-turned-around", "look like another", keys(branch="ma\u202eni"), REFUSED, BRANCH),
    Seed("commit-short", "mean several commits", keys(commit="abcdef1"), REFUSED, COMMIT),
    Seed("commit-41", "be something else", keys(commit="a" * 41), REFUSED, COMMIT),
    Seed("commit-option", RUN, keys(commit="--upload-pack=touch $RAN"), REFUSED, COMMIT),
    Seed("commit-head", "mean whatever is there", keys(commit="HEAD"), REFUSED, COMMIT),
    Seed("commit-other-digits", "look like a commit", keys(commit="\uff10" * 40), REFUSED, COMMIT),
    Seed("commit-not-there", "hang or take another", keys(commit="0" * 40), FAILED, NAME),
    # ------------------------------------------------------------------------------------------------ documents
    Seed("catalog-deep", "exhaust the stack", document(b'{"apps": ' + b"[" * 200_000), INVALID, "nested"),
    Seed("catalog-empty", "be no document", document(b""), INVALID, "not JSON"),
    Seed("catalog-nan", "be a number that is none", document(b"NaN"), INVALID, "apps"),
    Seed("catalog-nan-apps", "be a number that is none", document(b'{"apps": Infinity}'), INVALID, "apps"),
    Seed("catalog-huge-number", "take for ever", document(b'{"apps": [], "n": ' + b"9" * 1_000_000 + b"}"), INVALID),
    Seed("catalog-too-many", "fill memory", document(b'{"apps": [' + b"{}," * 99_999 + b"{}]}"), INVALID, "entries"),
    Seed("catalog-too-large", "fill memory", document(b'{"apps": [], "x": "' + b"x" * 20_000_000), INVALID, "larger"),
    Seed("catalog-utf16", "be misread", document('{"apps": []}'.encode("utf-16")), INVALID, "UTF-8"),
    Seed("catalog-latin1", "be misread", document(b'{"apps": ["\xe9"]}'), INVALID, "UTF-8"),
    Seed("catalog-object", "be walked like a list", document(b'{"apps": {"0": {}}}'), INVALID, "apps"),
    Seed(
        "catalog-types",
        "break each key by another type",
        entries(lambda ground: [ground.entry(**{key: value}) for key, value in BAD_TYPES]),
        REFUSED,
        f"apps[{len(BAD_TYPES) - 1}].skip",
    ),
    Seed("catalog-no-objects", "break the reader", document(b'{"apps": [1, [], null, "x"]}'), REFUSED, "apps[3]"),
    Seed(
        "catalog-many-bad-entries",
        "make the index too large to be read",
        document(json.dumps({"apps": [{"id": "x" * 900, "label": ""}] * 20_000}).encode()),
        REFUSED,
        "more problems are left out",
    ),
    Seed(
        "catalog-byte-order-mark",
        "be refused for nothing",
        lambda ground: (
            keys()(ground),
            ground.catalog.write_bytes(b"\xef\xbb\xbf" + ground.catalog.read_bytes()),
        ),
        LISTED,
    ),
    Seed(
        "catalog-key-twice",
        "show a reviewer another value",
        lambda ground: (
            keys()(ground),
            ground.catalog.write_bytes(
                ground.catalog.read_bytes().replace(b'"label"', b'"branch": "--x", "branch": null, "label"')
            ),
        ),
        LISTED,
    ),
    Seed(
        "catalog-in-a-catalog",
        "have entries read inside of entries",
        entries(lambda ground: [ground.entry(apps=[ground.entry(id="in", repository=f"ext::{ground.ran}")])]),
        LISTED,
    ),
    # --------------------------------------------------------------------------------------------- repositories
    Seed("name-con", "be a device on other systems", files({"CON": "x", "aux.txt": "x", "nul": "x"}), LISTED),
    Seed("odd-references", "become options of git", odd_references, LISTED),
    Seed("odd-file-names", "break the index", odd_names, LISTED),
    Seed("odd-link-name", "put control characters into the log", odd_link, FILE, "bad\\nname\\x1b"),
    Seed("environment-link-out", LEAVE, files({}, {"sepal_environment.yml": "$OUTSIDE/secret.txt"}), FILE, "leads out"),
    Seed("environment-link-dots", LEAVE, files({}, {"sepal_environment.yml": "../../../x"}), FILE, "leads out"),
    Seed("environment-link-to-git", LEAVE, files({}, {"sepal_environment.yml": ".git/config"}), FILE, "line 2"),
    Seed("environment-link-round", "hang", files({}, {"sepal_environment.yml": "sepal_environment.yml"}), FILE, NAME),
    Seed("environment-link-long", "break the reader", files({}, {"sepal_environment.yml": "x" * 4000}), FILE, NAME),
    Seed("environment-link-device", "never end", files({}, {"sepal_environment.yml": "/dev/zero"}), FILE, "leads out"),
    Seed(
        "environment-folder",
        "break the reader",
        lambda ground: (commit(ground.repository, {"sepal_environment.yml/x": "x"}), ground.write(ground.entry())),
        NOTHING,
    ),
    Seed("environment-fifo", "hang", keys(), NOTHING, later=fifo),
    Seed("environment-400-mb", "fill memory", keys(), FILE, "larger", later=sparse("sepal_environment.yml")),
    Seed("logo-400-mb", "fill memory", files({"logo.png": "x"}), LISTED, later=sparse("logo.png")),
    Seed("logo-link-out", LEAVE, files({}, {"logo.png": "/etc/passwd", "logo.svg": "$OUTSIDE/logo.svg"}), LISTED),
    Seed("logo-folder-link", LEAVE, files({}, {"logo.png": "$OUTSIDE", "logo-64x64.png": "/"}), LISTED),
    Seed("logo-folder", "break the reader", files({"logo.png/x": "x", "logo.svg/x": "x"}), LISTED),
    Seed(
        "hooks-and-configuration",
        RUN,
        files({"hooks/post-checkout": HOOK, ".gitconfig": CONFIG, "config": CONFIG, "sub/.gitconfig": CONFIG}),
        LISTED,
        later=configured,
    ),
    Seed("attributes", RUN, files({".gitattributes": "* filter=evil diff=evil export-subst\n", "a": "$Id$"}), LISTED),
    Seed("attributes-encoding", "break the reader", attributes("*.yml working-tree-encoding=UTF-16"), FILE, "UTF-8"),
    Seed("attributes-unknown-encoding", "break the checkout", attributes("* working-tree-encoding=EVIL"), LISTED),
    Seed(
        "repository-in-repository",
        RUN,
        files({"sub/HEAD": "ref: refs/heads/main\n", "sub/config": CONFIG, "sub/objects/x": "", "sub/refs/x": ""}),
        LISTED,
    ),
    Seed("git-file-in-a-folder", RUN, nested(b"sub", b".git"), FAILED, NAME),
    Seed("git-folder", "replace git's own configuration", nested(b".git", b"config"), FAILED, NAME),
    Seed(
        "git-folder-in-capitals", "replace it where case counts for nothing", nested(b".GIT", b"config"), FAILED, NAME
    ),
    Seed("dots-folder", LEAVE, nested(b"..", b"x"), FAILED, NAME),
    Seed("gitmodules-link", LEAVE, link_entry(".gitmodules", "/etc/passwd"), FAILED, NAME),
    Seed("tree-bomb", "fill the disk", bomb, FAILED, "more than 200000 files"),
    Seed("deep-1000", "exhaust the stack", deep(1_000), LISTED),
    Seed("deep-5000", "make paths too long", deep(5_000), FAILED, NAME),
    # ----------------------------------------------------------------------------------------------- submodules
    Seed("submodule-ext", RUN, submodule(module("ext::sh -c touch% $RAN")), FAILED, NAME),
    Seed("submodule-upload-pack", RUN, submodule(module("--upload-pack=touch $RAN")), FAILED, NAME),
    Seed("submodule-short-option", RUN, submodule(module("-u./payload")), FAILED, NAME),
    Seed("submodule-update-command", RUN, submodule(module("$LIBRARY", more="\tupdate = !touch $RAN\n")), FAILED, NAME),
    Seed("submodule-file", LEAVE, submodule(module("file://$LIBRARY")), FAILED, NAME, http=True),
    Seed("submodule-path", LEAVE, submodule(module("$LIBRARY")), FAILED, NAME, http=True),
    Seed("submodule-name", RUN, submodule(module("file://$LIBRARY", name="../../.git/hooks")), FAILED, NAME),
    Seed("submodule-name-of-git", RUN, submodule(module("file://$LIBRARY", name="../hooks")), FAILED, NAME),
    Seed("submodule-dots", LEAVE, submodule(module("file://$LIBRARY", path="../../out")), FAILED, NAME),
    Seed(
        "submodule-name-deep",
        "exhaust the stack",
        submodule(module("file://$LIBRARY", name="d/" * 1_200 + "d")),
        LISTED,
        later=lambda ground, checkout: commit(ground.repository, {"more": "x"}),
    ),
    Seed(
        "deep-and-broken",
        "exhaust the stack of whoever clears up",
        lambda ground: (submodule(module("ext::sh -c touch% $RAN"))(ground), bury(ground.repository, 1_800)),
        FAILED,
        NAME,
    ),
    Seed("submodule-option-path", RUN, submodule(module("file://$LIBRARY", path="-x"), path="-x"), FAILED, NAME),
    Seed("submodule-newline", RUN, submodule(module('"file://$LIBRARY\\nx"')), FAILED, NAME),
    Seed(
        "submodule-password", "leave a password", submodule(module("https://u:$SECRET@127.0.0.1:9/o/n")), FAILED, NAME
    ),
    # ---------------------------------------------------------------------------------------- environment files
    Seed("yaml-bomb", "fill memory", conda(LAUGHS), FILE, "aliases"),
    Seed("yaml-itself", "never end", conda("dependencies: &a\n  - python\n  - *a\n"), FILE, "aliases"),
    Seed(
        "yaml-long-texts",
        "fill memory",
        conda(f"name: &a {'x' * 100_000}\ndependencies:\n" + "  - *a\n" * 10_000),
        FILE,
        "aliases",
    ),
    Seed("yaml-deep", "exhaust the stack", conda("dependencies: " + "[" * 100_000), FILE, "nested"),
    Seed("yaml-tab", "be misread", conda("dependencies:\n\t- python\n"), FILE, "tab"),
    Seed("yaml-object", RUN, conda('!!python/object/apply:os.system ["touch $RAN"]\n'), FILE, "line 1"),
    Seed("yaml-unknown-keys", "fill the index", conda(CONDA + "".join(f"k{n}: 1\n" for n in range(5_000))), LISTED),
    Seed("yaml-key-with-password", "leave a password", conda(CONDA + '"https://u:$SECRET@h/x": 1\n'), LISTED),
    Seed("pip-twice", "be misread", conda("dependencies:\n  - pip: [a]\n  - pip: [b]\n"), FILE, "twice"),
    Seed("include-outside", LEAVE, pip("-r ../../etc/passwd"), FILE, "out of the repository"),
    Seed("include-absolute", LEAVE, requirements("-r /etc/passwd\n"), FILE, "out of the repository"),
    Seed("include-file-url", LEAVE, pip("-r file:///etc/passwd"), FILE, "out of the repository"),
    Seed("include-file-url-in-capitals", LEAVE, pip("-r FILE:///etc/passwd"), FILE, "out of the repository"),
    Seed("include-escaped", LEAVE, pip("-r file:%2e%2e/x", **{"%2e%2e/x": "six"}), FILE, "out of the repository"),
    Seed("include-odd-scheme", LEAVE, pip("-r a://../../../x"), FILE, "out of the repository"),
    Seed("include-link", LEAVE, pip("-r more.txt", links={"more.txt": "$OUTSIDE/secret.txt"}), FILE, "more.txt"),
    Seed("include-variable", LEAVE, pip("-r ${HOME}/x", **{"${HOME}/x": "six"}), FILE, "variable"),
    Seed("include-behind", LEAVE, pip("--pre -r /etc/passwd"), FILE, "line of its own"),
    Seed("include-abbreviated", LEAVE, pip("--requirem /etc/passwd"), FILE, "in full"),
    Seed("include-quoted", LEAVE, pip("-r '..'\"/\"x", **{"'..'\"/\"x": "six"}), FILE, "out of the repository"),
    Seed("include-two", LEAVE, pip("-r more.txt x", links={"more.txt": "/etc/passwd"}), FILE, "one path"),
    Seed(
        "include-circle", "never end", pip("-r a__txt".replace("__", "."), a__txt="-r b.txt", b__txt="-r a.txt"), LISTED
    ),
    Seed(
        "include-nested-link", LEAVE, pip("-r a.txt", a__txt="-r b", links={"b": "/etc/passwd"}), FILE, "a.txt: line 1"
    ),
    Seed("include-form-feed", LEAVE, requirements("six # x\x0c-r /etc/passwd\n"), FILE, "out of the repository"),
    Seed("include-escape-sequence", "colour a log", requirements("-r \x1b[31mx\n"), FILE, "\\x1b[31m"),
    Seed("include-password", "leave a password", pip("-r x --index-url https://u:$SECRET@h/x"), FILE, "one path"),
    Seed("editable-outside", LEAVE, pip("-e ../.."), FILE, "out of the repository"),
    Seed("editable-file-url", LEAVE, pip("-e file://$OUTSIDE"), FILE, "out of the repository"),
    Seed("editable-link", LEAVE, pip("-e .", pyproject__toml=PROJECT, links={"data/x": "/etc"}), FILE, "data/x"),
    Seed("editable-inner-link", "none", pip("-e .", pyproject__toml=PROJECT, links={"x": "data", "y": "x"}), LISTED),
    Seed("package-link", LEAVE, pip("./pkg", links={"pkg": "$OUTSIDE"}), FILE, "out of the repository"),
    Seed(
        "package-inner-link",
        LEAVE,
        pip("./pkg", **{"pkg/setup__py": "", "pkg/a/b__txt": "x"}, links={"pkg/a/secret": "$OUTSIDE/secret.txt"}),
        FILE,
        "pkg/a/secret",
    ),
    Seed(
        "package-link-to-link",
        LEAVE,
        pip("./pkg", **{"pkg/setup__py": ""}, links={"pkg/a": "../more", "more/b": "$OUTSIDE"}),
        FILE,
        "more/b",
    ),
    Seed(
        "package-link-in-cache",
        LEAVE,
        pip("./pkg", **{"pkg/setup__py": ""}, links={"pkg/__pycache__/a": "/etc/passwd"}),
        FILE,
        "pkg/__pycache__/a",
    ),
    Seed(
        "package-link-to-git",
        LEAVE,
        pip("./pkg", **{"pkg/setup__py": ""}, links={"pkg/a": "../.git"}),
        FILE,
        "git's own",
    ),
    Seed(
        "package-link-round",
        "never end",
        pip("./pkg", **{"pkg/setup__py": ""}, links={"pkg/a": ".", "pkg/b": "b"}),
        FILE,
        "pkg/b",
    ),
    Seed("package-without-dot", LEAVE, pip("sub/pkg", links={"sub/pkg": "$OUTSIDE"}), FILE, "out of the repository"),
    Seed("package-by-url", LEAVE, pip("pkg @ file://$OUTSIDE"), FILE, "out of the repository"),
    Seed("package-by-name", LEAVE, pip("pkg @ ../../x"), FILE, "out of the repository"),
    Seed(
        "wheel-link",
        LEAVE,
        pip("a-1-py3-none-any.whl", links={"a-1-py3-none-any.whl": "/etc/passwd"}),
        FILE,
        "leads out",
    ),
    Seed("find-links-outside", LEAVE, pip("-f ../.."), FILE, "out of the repository"),
    Seed("index-password", "leave a password", pip("--index-url https://u:$SECRET@127.0.0.1:9/simple"), LISTED),
    Seed("variables-command", RUN, conda(CONDA + "variables:\n  A: $(touch $RAN)\n  B: '`touch $RAN`'\n"), LISTED),
    Seed("variables-preload", RUN, conda(CONDA + "variables:\n  LD_PRELOAD: ./evil.so\n  GIT_DIR: x\n"), LISTED),
    Seed("variables-equals", "set another variable", conda(CONDA + "variables:\n  A=B: c\n"), FILE, "A=B"),
    Seed("variables-nul", "end a text early", conda(CONDA + 'variables:\n  A: "x\\0y"\n'), FILE, "A: expected"),
    Seed("spec-option", RUN, conda("dependencies:\n  - --channel=file:///etc\n"), FILE, "match spec"),
    Seed("channel-option", RUN, conda("channels: ['--rc-file=/etc/x']\ndependencies: [python]\n"), FILE, "channel"),
    Seed("channel-file", LEAVE, conda("channels: ['file:///etc']\ndependencies: [python]\n"), LISTED),
    Seed("channel-password", "leave a password", conda(CONDA.replace("conda-f", "https://u:$SECRET@h/f")), LISTED),
)
