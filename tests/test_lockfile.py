"""What an environment consists of: written down by its build, printed, shipped by a repository, and compared."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conda_package_streaming.create import anonymize, conda_builder  # type: ignore[import-untyped]
from conda_package_streaming.extract import extract  # type: ignore[import-untyped]
from conftest import Site, commit, mirrors
from test_commands import document, sepal

from sepal_provisioner import engines
from sepal_provisioner.envfile import parse_conda, read_environment_file
from sepal_provisioner.environ import build_environment
from sepal_provisioner.errors import BuildError, EnvironmentFileError, SolveError, StoreError
from sepal_provisioner.lockfile import LOCK_FILE, Lock, LockedPackage, conda_platform
from sepal_provisioner.lockreader import LINE_LIMIT, LOCK_BYTES, parse_lock, read_shipped_lock
from sepal_provisioner.mirrors import canonical, redirected
from sepal_provisioner.progress import Reporter
from sepal_provisioner.provenance import lock_of, lock_path, read_lock
from sepal_provisioner.settings import Sepal

FILE = "channels: [conda-forge]\ndependencies: [python, sepal-demo=1, pip: [./local]]\n"
OPEN_FILE = "channels: [conda-forge]\ndependencies: [python, sepal-demo]\n"
PROJECT = '[project]\nname = "Local_Thing"\nversion = "3.2.1"\n'
FORGE = "https://conda.anaconda.org/conda-forge"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, channel: Path) -> Site:
    """A site whose kernel `venv-one` is built from a file that is solved, with a project of the repository's own."""
    site = Site(tmp_path_factory.mktemp("made"), mirrors(channel))
    site.add("one", {"sepal_environment.yml": FILE, "local/pyproject.toml": PROJECT})
    site.sync()
    site.build("venv-one")
    return site


def prefix_of(site: Site, name: str) -> Path:
    """The newest prefix of a kernel."""
    return site.stores.complete(name)[0].path


def conda_packages(prefix: Path) -> set[tuple[str, ...]]:
    """What conda's own records say: name, version, build and both hashes of every package."""
    records = [json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json")]
    return {tuple(record[key] for key in ("name", "version", "build", "md5", "sha256")) for record in records}


# ------------------------------------------------------------------------------------------------ the lock of a prefix


def test_a_lock_names_every_package_by_public_url_and_hash(made: Site, channel: Path) -> None:
    """The printed file is what the build left; the URLs are conda-forge's, the hashes those of the real files, and
    every dependency stands before what needs it."""
    prefix = prefix_of(made, "venv-one")
    text = sepal(made, "lock", "one").stdout
    assert text == lock_path(prefix).read_text()
    lines = text.splitlines()
    assert lines[2:4] == [f"# platform: {conda_platform()}", "@EXPLICIT"]
    assert lines[-1] == "# pip: ./local  # local-thing==3.2.1"
    urls = [line for line in lines[4:] if not line.startswith("#")]
    assert len(urls) == len(conda_packages(prefix)) > 20
    for line in urls:
        url, _, digest = line.partition("#")
        file = channel / "conda-forge" / url.removeprefix(f"{FORGE}/")
        assert hashlib.md5(file.read_bytes()).hexdigest() == digest
        assert f"# sha256: {hashlib.sha256(file.read_bytes()).hexdigest()} {file.name}" in lines
    names = [parsed.name for parsed in parse_lock(text, "lock").conda]
    assert names.index("traitlets") < names.index("jupyter_client") < names.index("ipykernel")
    assert str(channel) not in text and "file:" not in text


def test_the_document_of_lock_has_its_documented_keys(made: Site) -> None:
    """--json names the prefix, the fingerprint and each package."""
    shown = document(made, "lock", "venv-one")
    assert list(shown) == ["name", "fingerprint", "prefix", "platform", "conda", "pip"]
    assert shown["prefix"] == str(prefix_of(made, "venv-one")) and shown["fingerprint"] in shown["prefix"]
    (demo,) = [package for package in shown["conda"] if package["name"] == "sepal-demo"]
    assert list(demo) == ["name", "version", "build", "url", "md5", "sha256"]
    assert demo["version"] == "1.0" and demo["url"].startswith(f"{FORGE}/noarch/sepal-demo-1.0-")
    assert shown["pip"] == [{"name": "local-thing", "version": "3.2.1", "url": "./local"}]


def test_an_older_or_damaged_prefix_is_locked_from_its_records(made: Site, tmp_path: Path) -> None:
    """Without lock.txt, or with half of one, the same lock comes from what conda and pip recorded; a record that
    can't be read is an error, never a lock without that package."""
    prefix = prefix_of(made, "venv-one")
    copy = tmp_path / "prefix"
    shutil.copytree(prefix / "conda-meta", copy / "conda-meta")
    for folder in prefix.glob("lib/python3*/site-packages/*.dist-info"):
        target = copy / folder.relative_to(prefix)
        target.mkdir(parents=True)
        for path in folder.glob("direct_url.json"):
            shutil.copy(path, target)
    checkout = made.store.apps / "one"
    written = lock_path(prefix).read_text()
    assert read_lock(copy, made.mirrors, checkout).text() == written
    lock_path(copy).parent.mkdir()
    lock_path(copy).write_text(written[:2000])
    assert read_lock(copy, made.mirrors, checkout).text() == written
    next((copy / "conda-meta").glob("*.json")).write_text("{")
    lock_path(copy).unlink()
    with pytest.raises(StoreError, match="Build it again"):
        read_lock(copy, made.mirrors, checkout)


def test_a_requirements_kernel_has_a_pip_part_only(tmp_path: Path, channel: Path) -> None:
    """Its lock has no @EXPLICIT, and one line with a version for each distribution."""
    site = Site(tmp_path / "site", mirrors(channel))
    site.add("wheels", {"requirements.txt": "toml\n", LOCK_FILE: "of no use here\n"})
    (problem,) = site.sync().index.problems
    assert "ignored" in problem.message and LOCK_FILE in problem.place
    site.build("venv-wheels")
    lock = parse_lock(sepal(site, "lock", "wheels").stdout, "lock")
    assert not lock.conda and "@EXPLICIT" not in lock.text()
    lines = [package.line for package in lock.pip]
    assert any(line.startswith("toml==0.10.") for line in lines)
    assert {"ipykernel", "pip"} < {package.name for package in lock.pip}
    assert all(package.line == f"{package.name}=={package.version}" for package in lock.pip)


def test_every_way_in_which_pip_installs_has_its_line(tmp_path: Path) -> None:
    """PEP 610 at its word: an index, a commit, an archive, a project in the repository or elsewhere; no password."""
    folder = tmp_path / "lib" / "python3.11" / "site-packages"
    checkout = tmp_path / "checkout"
    ways: dict[str, object] = {
        "plain-1.0": None,
        "from_git-2.0": {
            "url": "https://me:secret@example.org/a/b.git",
            "vcs_info": {"vcs": "git", "commit_id": "c" * 40},
            "subdirectory": "python",
        },
        "from_ssh-2.1": {"url": "ssh://git@example.org/a/b.git", "vcs_info": {"vcs": "git", "commit_id": "d" * 40}},
        "archive-3.0": {"url": "https://t@example.org/x.whl", "archive_info": {"hashes": {"sha256": "e" * 64}}},
        "Root.Thing-4.0": {"url": f"file://{checkout}", "dir_info": {"editable": True}},
        "below-5.0": {"url": f"file://{checkout}/a/b", "dir_info": {}},
        "outside-6.0": {"url": f"file://{tmp_path}/other", "dir_info": {"editable": True}},
        "broken-7.0": ["no", "object"],
    }
    for name, way in ways.items():
        (folder / f"{name}.dist-info").mkdir(parents=True)
        if way is not None:
            (folder / f"{name}.dist-info" / "direct_url.json").write_text(json.dumps(way))
    (folder / "condas_own-1.0.dist-info").mkdir()
    record = {
        "name": "condas-own", "version": "1.0", "build": "0", "url": "https://me:pw@h/t/tk-1-2/c/noarch/condas-own-1.0-0.conda",
        "files": ["lib/python3.11/site-packages/condas_own-1.0.dist-info/METADATA"],
    }  # fmt: skip
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta" / "condas-own-1.0-0.json").write_text(json.dumps(record))
    (tmp_path / "lib" / "python3.1").symlink_to("python3.11")
    lock = lock_of(tmp_path, {}, checkout)
    assert [package.line for package in lock.pip] == [
        f"archive @ https://example.org/x.whl#sha256={'e' * 64}",
        "./a/b",
        "broken==7.0",
        f"from-git @ git+https://example.org/a/b.git@{'c' * 40}#subdirectory=python",
        f"from-ssh @ git+ssh://git@example.org/a/b.git@{'d' * 40}",
        "outside==6.0",
        "plain==1.0",
        "-e .",
    ]
    assert [package.url for package in lock.conda] == ["https://h/c/noarch/condas-own-1.0-0.conda"]
    again = parse_lock(lock.text(), "lock", own=True)
    assert again == lock, "what is written is read back, names and versions of direct ones too"


def test_what_a_mirror_gave_has_its_public_url_and_back() -> None:
    """Folders, http mirrors with a password, tokens and `defaults`: to the public URL and, at the next site, back."""
    here = {
        "conda-forge": "file:///srv/my channel/cf/",
        "defaults": "https://user:secret@mirror/t/tk-9/main",
        "https://repo.example.org/own": "http://mirror/own",
        "left-out": "",
    }
    for mirrored, public in (
        ("file:///srv/my%20channel/cf/noarch/a-1-0.conda", f"{FORGE}/noarch/a-1-0.conda"),
        ("https://mirror/main/linux-64/a-1-0.conda", "https://repo.anaconda.com/pkgs/main/linux-64/a-1-0.conda"),
        ("http://mirror/own/noarch/a-1-0.conda", "https://repo.example.org/own/noarch/a-1-0.conda"),
    ):
        assert canonical(mirrored, here) == public
        assert canonical(public, here) == public
    back = "https://user:secret@mirror/t/tk-9/main/noarch/a-1-0.conda"
    assert redirected("https://repo.anaconda.com/pkgs/r/noarch/a-1-0.conda", here) == back
    assert redirected(f"{FORGE}/noarch/a-1-0.conda", here) == "file:///srv/my channel/cf/noarch/a-1-0.conda"
    assert redirected("https://conda.anaconda.org/left-out/noarch/a-1-0.conda", here) == ""
    assert redirected(f"{FORGE}/label/dev/noarch/a-1-0.conda", here) == f"{FORGE}/label/dev/noarch/a-1-0.conda"
    assert canonical("https://a:b@h/t/x-1/c/noarch/a-1-0.conda", {}) == "https://h/c/noarch/a-1-0.conda"


# ----------------------------------------------------------------------------------------------- a repository ships one


def test_a_shipped_lock_is_kept_to_the_letter_and_its_renewal_is_a_diff(made: Site) -> None:
    """Another repository, whose file would now give a newer package, gets exactly what the lock says; without the
    lock the next build differs, and `diff` says in what."""
    text = sepal(made, "lock", "venv-one").stdout
    files = {"sepal_environment.yml": OPEN_FILE, LOCK_FILE: text, "local/pyproject.toml": PROJECT}
    made.add("two", files)
    assert made.sync().index.problems == ()
    locked = made.build("venv-two")
    assert conda_packages(locked.path) == conda_packages(prefix_of(made, "venv-one"))
    assert lock_path(locked.path).read_text() == text
    log = (locked.path / ".sepal" / "build.log").read_text()
    assert "nothing is solved" in log and "--no-deps" in log
    assert "one environment only" in sepal(made, "diff", "two", code=6).stderr

    commit(made.repository("two"), {LOCK_FILE: None})
    made.sync()
    unready = document(made, "lock", "two", code=6)["error"]["message"]
    assert "jupyter sepal build venv-two" in unready
    solved = made.build("venv-two")
    assert solved.fingerprint != locked.fingerprint
    shown = document(made, "diff", "venv-two")
    assert (shown["name"], shown["from"], shown["to"]) == ("venv-two", locked.path.name, solved.path.name)
    assert shown["added"] == []
    assert [(one["source"], one["name"], one["version"]) for one in shown["removed"]] == [
        ("pip", "local-thing", "3.2.1")
    ]
    (changed,) = shown["changed"]
    assert (changed["source"], changed["name"]) == ("conda", "sepal-demo")
    assert (changed["from"]["version"], changed["to"]["version"]) == ("1.0", "2.0")
    table = sepal(made, "diff", "two", locked.fingerprint[:6]).stdout
    assert "CHANGE" in table and "sepal-demo" in table and "2.0" in table and "local-thing" in table
    backwards = document(made, "diff", "two", solved.path.name, locked.path.name)
    assert [one["name"] for one in backwards["added"]] == ["local-thing"]
    assert "the same packages" in sepal(made, "diff", "two", solved.path.name).stdout
    nothing = sepal(made, "diff", "two", "ffffffffffffffffffff", code=6).stderr
    assert solved.path.name in nothing and locked.path.name in nothing
    assert "more than one" in sepal(made, "diff", "two", "", code=6).stderr


def test_a_failed_lock_names_the_package_and_leaves_nothing(made: Site) -> None:
    """A hash that the channel's package does not have ends the build with the package's name, and no prefix."""
    text = lock_path(prefix_of(made, "venv-one")).read_text()
    demo = next(package for package in parse_lock(text, "lock").conda if package.name == "sepal-demo")
    wrong = text.replace(demo.sha256, "0" * 64)
    made.add("three", {"sepal_environment.yml": OPEN_FILE, LOCK_FILE: wrong, "local/pyproject.toml": PROJECT})
    made.sync()
    with pytest.raises(SolveError) as caught:
        made.build("venv-three")
    assert demo.file in caught.value.detail and "differs" in caught.value.detail
    assert made.stores.complete("venv-three") == []
    assert "jupyter sepal log venv-three" in sepal(made, "lock", "three", code=6).stderr


class Job:
    """One locked package, its channel behind a mirror that a test can spoil, and an engine to install it."""

    def __init__(self, tmp_path: Path, channel: Path) -> None:
        self.root = tmp_path
        self.site = tmp_path / "mirror" / "conda-forge"
        (self.site / "linux-64").mkdir(parents=True)
        (self.site / "noarch").mkdir()
        source = channel / "conda-forge" / "noarch"
        listed = json.loads((source / "repodata.json").read_text())["packages.conda"]
        self.file = next(name for name in listed if name.startswith("tzdata-"))
        self.packages = {self.file: listed[self.file]}
        shutil.copy(source / self.file, self.site / "noarch")
        url = f"{FORGE}/noarch/{self.file}"
        own = self.packages[self.file]
        self.lock = Lock(conda_platform(), (LockedPackage(url, own["md5"], own["sha256"]),))

    def create(self, mirror: str, engine: str = "rattler", **settings: object) -> Path:
        """Publish the mirror's index and let the engine create a prefix from the lock."""
        for subdir, packages in (("noarch", self.packages), ("linux-64", {})):
            document = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": packages}
            (self.site / subdir / "repodata.json").write_text(json.dumps(document))
        job = engines.Job(
            prefix=self.root / "prefix",
            file=replace(parse_conda(OPEN_FILE), lock=self.lock),
            folder=self.root,
            cache=self.root / "pkgs",
            settings=Sepal(channel_mirrors={"conda-forge": mirror}, **settings),
            reporter=Reporter(self.root / "progress.json", "venv-trial", "0" * 16),
            env=build_environment(os.environ),
            log=lambda line: None,
            deadline=lambda: 100,
        )
        engines.ENGINES[engine].create(job)
        return self.root / "prefix"


@pytest.fixture
def job(tmp_path: Path, channel: Path) -> Job:
    return Job(tmp_path, channel)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(params=["file", "http"])
def mirror(request: pytest.FixtureRequest, job: Job) -> Iterator[str]:
    """The job's channel as a folder and over http."""
    if request.param == "file":
        yield f"file://{job.site}"
        return
    handler = partial(_Quiet, directory=str(job.site.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_address[1]}/conda-forge"
        server.shutdown()


def test_a_locked_package_comes_through_the_mirror(job: Job, mirror: str) -> None:
    """From a folder and over http with a password; the lock of what was made is the one that it was made from."""
    prefix = job.create(mirror)
    assert lock_of(prefix, {"conda-forge": mirror}, job.root) == job.lock


def test_a_package_that_its_channel_no_longer_lists_is_taken_by_its_url(job: Job, mirror: str) -> None:
    """Channels withdraw broken packages from the index and keep the files: a lock goes on working."""
    job.packages = {}
    prefix = job.create(mirror)
    assert lock_of(prefix, {"conda-forge": mirror}, job.root) == job.lock


def _withdrawn(job: Job) -> None:
    job.packages = {}
    (job.site / "noarch" / job.file).unlink()


def _replaced(job: Job) -> None:
    (job.site / "noarch" / job.file).write_bytes((job.site / "noarch" / job.file).read_bytes()[:-1] + b"x")


def _rebuilt(job: Job) -> None:
    _replaced(job)
    data = (job.site / "noarch" / job.file).read_bytes()
    digests = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
    job.packages = {job.file: {**job.packages[job.file], **digests}}


@pytest.mark.parametrize("spoil", [_withdrawn, _replaced, _rebuilt], ids=lambda spoil: spoil.__name__.strip("_"))
def test_a_package_that_is_gone_or_another_is_refused(job: Job, mirror: str, spoil: Callable[[Job], None]) -> None:
    """Gone, damaged on the mirror, or rebuilt under the same name: the error names the package, never a password."""
    spoil(job)
    with pytest.raises(BuildError) as caught:
        job.create(mirror)
    assert job.file in caught.value.detail
    assert "secret" not in str(caught.value)
    assert not list((job.root / "prefix").glob("conda-meta/*.json"))


def _packed_anew(job: Job, folder: Path) -> str:
    """Pack the package again under its own name with one file changed; returns that file's path in a prefix."""
    archive = job.site / "noarch" / job.file
    extract(str(archive), str(folder / "tree"))
    changed = next(path for path in (folder / "tree").rglob("*") if path.name == "Berlin")
    place = changed.relative_to(folder / "tree").as_posix()
    changed.write_bytes(b"changed")
    paths = folder / "tree" / "info" / "paths.json"
    listed = json.loads(paths.read_text())
    for entry in listed["paths"]:
        if entry["_path"] == place:
            entry |= {"sha256": hashlib.sha256(b"changed").hexdigest(), "size_in_bytes": 7}
    paths.write_text(json.dumps(listed))
    with conda_builder(job.file.removesuffix(".conda"), str(folder)) as builder:
        for path in sorted((folder / "tree").rglob("*")):
            if path.is_file():
                builder.add(str(path), path.relative_to(folder / "tree").as_posix(), filter=anonymize)
    shutil.copy(folder / job.file, archive)
    return place


@pytest.mark.parametrize("known", ["md5", "sha256"])
def test_a_cached_package_of_the_same_name_is_never_taken_instead(
    job: Job, mirror: str, known: str, tmp_path: Path
) -> None:
    """The store's cache, and an index that is an old copy, hold another build of that name: the hash decides."""
    shutil.rmtree(job.create(mirror))
    folder = tmp_path / "anew"
    (folder / "tree").mkdir(parents=True)
    place = _packed_anew(job, folder)
    digest = hashlib.new(known, (folder / job.file).read_bytes()).hexdigest()
    url = job.lock.conda[0].url
    job.lock = replace(job.lock, conda=(LockedPackage(url, **{known: digest}),))
    prefix = job.create(mirror)
    assert (prefix / place).read_bytes() == b"changed"
    assert not (prefix / ".sepal" / "pkgs").exists()


def test_a_channel_that_is_left_out_or_unreachable_is_told_apart(job: Job) -> None:
    """An empty mirror is the site's decision; a server that is down is no fault of the lock."""
    with pytest.raises(SolveError, match="leaves out"):
        job.create("")
    with pytest.raises(BuildError, match="can't be read") as caught:
        job.create("http://127.0.0.1:9/conda-forge")
    assert caught.value.code == "download-failed"


STAND_IN = """\
#!/usr/bin/env python3
import json, pathlib, sys
if "--version" in sys.argv: print("2.8.1"); raise SystemExit
text = pathlib.Path(sys.argv[sys.argv.index("--file") + 1]).read_text()
pathlib.Path({seen!r}).write_text(json.dumps([sys.argv[1:], text]))
meta = pathlib.Path(sys.argv[sys.argv.index("--prefix") + 1]) / "conda-meta"
meta.mkdir(parents=True)
for line in text.splitlines():
    if "://" in line:
        url, _, digest = line.partition("#sha256:")
        name, version, build = url.rsplit("/", 1)[-1].removesuffix(".conda").rsplit("-", 2)
        record = dict(name=name, version={version}, build=build, url=url, sha256=digest)
        (meta / f"{{name}}.json").write_text(json.dumps(record))
"""


def test_micromamba_gets_the_lock_as_its_own_explicit_file(job: Job) -> None:
    """A stand-in that records as micromamba does: it is given this site's URLs with the stronger hash and nothing to
    solve, the file is gone afterwards, and what was installed instead of the lock is found out."""
    program, seen = job.root / "micromamba", job.root / "seen.json"
    program.write_text(STAND_IN.format(seen=str(seen), version="version"))
    program.chmod(0o755)
    mirror = f"file://{job.site}"
    prefix = job.create(mirror, "micromamba", micromamba=str(program))
    arguments, text = json.loads(seen.read_text())
    explicit = Path(arguments[arguments.index("--file") + 1])
    assert "--channel" not in arguments and not explicit.exists()
    assert text.splitlines() == [
        f"# platform: {conda_platform()}", "@EXPLICIT", f"{mirror}/noarch/{job.file}#sha256:{job.lock.conda[0].sha256}",
    ]  # fmt: skip
    assert lock_of(prefix, {"conda-forge": mirror}, job.root, job.lock) == job.lock, "with the md5 that it dropped"
    shutil.rmtree(prefix)
    program.write_text(STAND_IN.format(seen=str(seen), version="'0'"))
    with pytest.raises(SolveError) as caught:
        job.create(mirror, "micromamba", micromamba=str(program))
    assert f"{job.file} differs: tzdata 0 " in caught.value.detail


# ---------------------------------------------------------------------------------------------- locks as somebody wrote


def package(name: str, anchor: str = "#" + "a" * 32, channel: str = FORGE, subdir: str = "noarch") -> str:
    """A lock's line."""
    return f"{channel}/{subdir}/{name}-1.0-0.conda{anchor}"


GOOD = ["@EXPLICIT", package("python"), package("ipykernel")]

HOSTILE = [
    ([f"{GOOD[1]}x"], 4, "not a package's URL"),
    (["gdal=3.8.*"], 4, "not a package's URL"),
    (["--channel=https://evil.example"], 4, "not a package's URL"),
    ([package("a", "")], 4, "has no hash"),
    ([package("a", "#" + "g" * 32)], 4, "not a package's URL"),
    ([package("a", channel="http://h/c")], 4, "not an https URL"),
    ([package("a", channel="file:///srv/c")], 4, "channel_mirrors"),
    (["/srv/c/noarch/a-1.0-0.conda#" + "a" * 32], 4, "not a package's URL"),
    ([package("a", channel="https://me:pw@h/c")], 4, "password or token"),
    ([package("a", channel="https://h/t/tk-12/c")], 4, "password or token"),
    ([package("a", channel="https://h/c/../d")], 4, "not a package's URL"),
    ([package("a", channel="https://h/c/%2e%2e/d")], 4, "not a package's URL"),
    ([package("a", channel="https://h/$HOME")], 4, "not a package's URL"),
    ([package("a", channel="https://h/c?x=/y")], 4, "not a package's URL"),
    ([package("a", subdir="win-64")], 4, "win-64"),
    ([package("python", channel="https://h/c")], 4, "stands twice"),
    ([package("a\x1b[2J")], 4, "can't be shown"),
    (["# platform: osx-arm64"], 4, "this machine is"),
    (["# sha256: 123 a-1.0-0.conda"], 4, "is not a sha256"),
    (["", f"# sha256: {'b' * 64} unknown-1.0-0.conda"], 5, "none of the packages"),
    (["# pip: six"], 4, "no locked pip package"),
    (["# pip: six>=1"], 4, "no locked pip package"),
    (["# pip: --index-url https://evil.example"], 4, "no locked pip package"),
    (["# pip: -r more.txt"], 4, "no locked pip package"),
    (["# pip: -e /etc"], 4, "no locked pip package"),
    (["# pip: six==1 --hash=x"], 4, "no locked pip package"),
    (["# pip: x @ file:///etc/x"], 4, "expected https"),
    (["# pip: x @ git+file:///srv/x@abc"], 4, "expected https"),
    (["# pip: x @ git+ssh://-oProxyCommand=x/y@abc"], 4, "expected https"),
    (["# pip: x @ git+https://me:pw@h/x@abc"], 4, "holds a password"),
    (["# pip: six==1", "# pip: Six==2"], 5, "stands twice"),
]


@pytest.mark.parametrize(("lines", "number", "words"), HOSTILE, ids=[str(n) for n in range(len(HOSTILE))])
def test_a_hostile_line_is_refused_by_its_number(lines: list[str], number: int, words: str, tmp_path: Path) -> None:
    """Each line that is malformed, or would reach somewhere else, is an EnvironmentFileError that names it."""
    (tmp_path / LOCK_FILE).write_text("\n".join([*GOOD, *lines]))
    with pytest.raises(EnvironmentFileError, match=rf"^{LOCK_FILE}: line {number}: ") as caught:
        read_shipped_lock(tmp_path)
    assert words in str(caught.value)
    assert "pw" not in str(caught.value) and str(caught.value).isprintable()


def test_a_lock_that_is_too_large_or_leads_out_is_refused(tmp_path: Path) -> None:
    """Too many lines, too many bytes, a link out of the repository, a folder, a FIFO, other bytes than text."""
    path = tmp_path / "checkout" / LOCK_FILE
    path.parent.mkdir()
    outside = tmp_path / "outside"
    outside.write_text("\n".join(GOOD))

    def refused(words: str) -> None:
        with pytest.raises(EnvironmentFileError, match=words):
            read_shipped_lock(path.parent)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    path.write_text("\n" * (LINE_LIMIT + 1))
    refused(f"line {LINE_LIMIT + 1}")
    path.write_text("x" * (LOCK_BYTES + 1))
    refused("larger than")
    path.symlink_to(outside)
    refused("leads out of the repository")
    path.symlink_to(path)
    refused(LOCK_FILE)
    path.symlink_to("nowhere")
    refused("can't be read")
    path.mkdir()
    refused("not a regular file")
    os.mkfifo(path)
    refused("not a regular file")
    path.write_bytes(b"\xff\xfe")
    refused("UTF-8")
    path.write_text("\n".join(GOOD[1:]))
    refused("@EXPLICIT")
    path.write_text("\n".join(GOOD[:2]))
    refused("ipykernel is not among")
    path.write_text("\n".join([GOOD[0], GOOD[2]]))
    refused("python is not among")
    assert read_shipped_lock(path.parent) is None


def test_what_conda_itself_exports_is_a_lock(tmp_path: Path) -> None:
    """`conda list --explicit` with md5 or sha256, Windows line ends and a byte order mark are read as well."""
    lines = [
        "# This file may be used to create an environment using:", "# $ conda create --name <env> --file <this file>",
        f"# platform: {conda_platform()}", "# created-by: conda 24.9.0", "@EXPLICIT", package("python"),
        package("ipykernel", "#sha256:" + "b" * 64), package("a_b.c", "#" + "c" * 64),
    ]  # fmt: skip
    (tmp_path / LOCK_FILE).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    lock = read_shipped_lock(tmp_path)
    assert lock is not None and [one.name for one in lock.conda] == ["python", "ipykernel", "a_b.c"]
    assert [one.sha256[:1] for one in lock.conda] == ["", "b", "c"]
    assert parse_lock(lock.text(), "again") == lock


def test_what_counts_of_a_lock_in_the_fingerprint(tmp_path: Path) -> None:
    """A URL, a hash, a pip line and a project that one names count; order and other comments don't. What the file
    asks for and the lock lacks is a warning."""
    (tmp_path / "sepal_environment.yml").write_text(OPEN_FILE)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "pyproject.toml").write_text(PROJECT)

    def fingerprint(*lines: str) -> str:
        (tmp_path / LOCK_FILE).write_text("\n".join(lines))
        file = read_environment_file(tmp_path, "sepal_environment.yml")
        assert type(file).from_json(json.loads(json.dumps(file.to_json()))) == file
        return file.fingerprint()

    file = "ipykernel-1.0-0.conda"
    plain = fingerprint(*GOOD)
    assert fingerprint("# a note", GOOD[0], "", GOOD[2], "# another", GOOD[1]) == plain
    different = {
        plain,
        fingerprint(*GOOD, package("gdal")),
        fingerprint(*GOOD[:2], package("ipykernel", "#" + "b" * 32)),
        fingerprint(*GOOD, f"# sha256: {'b' * 64} {file}"),
        fingerprint(*GOOD, "# pip: six==1.0"),
        fingerprint(*GOOD, "# pip: six==1.1"),
        fingerprint(*GOOD, "# pip: ./local"),
    }
    assert len(different) == 7
    before = fingerprint(*GOOD, "# pip: ./local  # local-thing==3.2.1")
    assert before in different
    (tmp_path / "local" / "pyproject.toml").write_text(PROJECT.replace("3.2.1", "3.2.2"))
    assert fingerprint(*GOOD, "# pip: ./local") != before
    warnings = read_environment_file(tmp_path, "sepal_environment.yml").warnings
    assert [str(warning) for warning in warnings] == [
        f"{LOCK_FILE}: sepal-demo: asked for by sepal_environment.yml, but not in the lock; make it anew"
    ]
    (tmp_path / LOCK_FILE).write_text("\n".join([*GOOD, "# pip: ./../out"]))
    with pytest.raises(EnvironmentFileError, match="leads out of the repository"):
        read_environment_file(tmp_path, "sepal_environment.yml")
    (tmp_path / LOCK_FILE).unlink()
    assert read_environment_file(tmp_path, "sepal_environment.yml").lock is None


def test_mistakes_of_lock_and_diff_are_told_in_words(site: Site) -> None:
    """Nothing built, no name, too many names: each says what helps."""
    site.add("one", {"sepal_environment.yml": OPEN_FILE})
    site.sync()
    assert "Name one kernel" in sepal(site, "lock", code=2).stderr
    assert "Name one kernel" in sepal(site, "diff", code=2).stderr
    assert "jupyter sepal build venv-one" in sepal(site, "lock", "one", code=6).stderr
    assert "jupyter sepal build venv-one" in sepal(site, "diff", "one", code=6).stderr
