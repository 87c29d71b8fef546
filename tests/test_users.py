"""Many users on one store: who may write it, who may only read it, and what is refused.

Two unprivileged users are made for these tests, and a child of the test process becomes one of them. That takes root.
"""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Site, mirrors
from test_commands import sepal

from sepal_provisioner import audit, locks
from sepal_provisioner.builds import request_build
from sepal_provisioner.errors import NotTrustedError, StoreReadOnlyError
from sepal_provisioner.launch import prepare, ready_generation
from sepal_provisioner.settings import Sepal
from sepal_provisioner.store import State, Stores
from sepal_provisioner.trust import Trust

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("useradd"), reason="needs root and useradd, to become other users"
)
NAME = "venv-forest"


@dataclass(frozen=True)
class User:
    """An unprivileged user."""

    name: str
    number: int
    group: int

    def does(self, function: Callable[[], Any]) -> Any:
        """Call a function in a child process that is this user; returns or raises what it returned or raised."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.setgroups([])
                os.setgid(self.group)
                os.setuid(self.number)
                os.umask(0o077)
                try:
                    answer: tuple[bool, Any] = (True, function())
                except BaseException as error:
                    answer = (False, error if _travels(error) else AssertionError(traceback.format_exc()))
                with os.fdopen(writing, "wb") as stream:
                    pickle.dump(answer, stream)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            data = stream.read()
        os.waitpid(child, 0)
        worked, value = pickle.loads(data)
        if worked:
            return value
        raise value


def _travels(error: BaseException) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


@pytest.fixture(scope="module")
def users() -> Iterator[tuple[User, User]]:
    """Ada, who administers the store, and Bob, who uses it."""
    made = []
    for name in ("sepal-test-ada", "sepal-test-bob"):
        subprocess.run(["userdel", name], capture_output=True, check=False)
        subprocess.run(["useradd", "--no-create-home", "--user-group", name], check=True, capture_output=True)
        numbers = subprocess.run(["id", "-u", name], capture_output=True, text=True, check=True).stdout
        group = subprocess.run(["id", "-g", name], capture_output=True, text=True, check=True).stdout
        made.append(User(name, int(numbers), int(group)))
    yield made[0], made[1]
    for user in made:
        subprocess.run(["userdel", user.name], capture_output=True, check=False)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, channel: Path) -> Iterator[Site]:
    """A store with a ready environment, built under a private umask, in a folder that others may enter."""
    root = Path(tempfile.mkdtemp(prefix="sepal-users-"))
    root.chmod(0o755)
    site = Site(root, mirrors(channel))
    mask = os.umask(0o077)
    try:
        site.add("forest", {"sepal_environment.yml": SMALL})
        site.add("missing", {"sepal_environment.yml": SMALL.replace("sepal-demo", "numpy")})
        sepal(site, "sync")
        site.build(NAME)
    finally:
        os.umask(mask)
    yield site
    shutil.rmtree(root)


@pytest.fixture
def store(filled: Site, tmp_path: Path) -> Iterator[Site]:
    """The filled store, given back to root and with its modes as they were afterwards."""
    before = {path: path.lstat() for path in (filled.root, *filled.root.rglob("*"))}
    yield filled
    for path, info in before.items():
        now = path.lstat()
        if now.st_uid or now.st_gid:
            os.chown(path, 0, 0, follow_symlinks=False)
        if not stat.S_ISLNK(info.st_mode) and now.st_mode != info.st_mode:
            path.chmod(stat.S_IMODE(info.st_mode))


def give(site: Site, user: User) -> None:
    """Let a user own the whole store."""
    subprocess.run(["chown", "-R", "-h", f"{user.name}:{user.name}", site.store.root], check=True)


def shared_settings(site: Site, **options: Any) -> Sepal:
    """What a user has configured who only reads this store, and has one of their own."""
    own = Path(tempfile.mkdtemp(prefix="own-", dir=site.root))
    own.chmod(0o777)
    return Sepal(store=str(own / "store"), search_stores=[str(site.store.root)], **options)


def launch(settings: Sepal, name: str = NAME) -> str:
    """Prepare a launch, and run its interpreter with its environment; returns the prefix."""
    ready = ready_generation(Stores.of(settings.store, settings.search_stores), name)
    assert ready is not None
    prepared = prepare(ready, name, os.environ, settings)
    assert prepared.lock >= 0 and locks.shared(ready.marker)
    code = "import ipykernel, sepal_demo, sys; print(sys.prefix)"
    done = subprocess.run([prepared.python, "-c", code], env=prepared.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_everybody_reads_what_a_private_umask_wrote(store: Site) -> None:
    """Whatever umask an administrator has, every file and folder of the store is readable by all, and written by its
    owner only; settings that may hold passwords are the owner's alone."""
    private = {".request.json", "sync.request.json"}
    for path in (store.store.root, *store.store.root.rglob("*")):
        mode = path.lstat().st_mode
        relative = path.relative_to(store.store.root)
        if stat.S_ISLNK(mode) or relative.parts[:1] in (("pkgs",), ("catalogs",)):
            continue
        if any(path.name.endswith(name) for name in private):
            assert stat.S_IMODE(mode) == 0o600, path
            continue
        assert mode & stat.S_IROTH, f"{path} is {mode:o}"
        assert not mode & (stat.S_IWGRP | stat.S_IWOTH), f"{path} is {mode:o}"
        assert not stat.S_ISDIR(mode) or mode & stat.S_IXOTH, path


def test_a_user_runs_what_root_built(store: Site, users: tuple[User, User]) -> None:
    """A store of root's is used by somebody who can't write to it, with the lock that keeps it from being removed."""
    _, bob = users
    settings = shared_settings(store)
    assert bob.does(lambda: launch(settings)) == str(store.store.generations(NAME)[0].path)
    with pytest.raises(PermissionError):
        bob.does(lambda: (store.store.root / "index.json").write_text("{}"))


def test_another_users_store_is_refused_until_it_is_trusted(store: Site, users: tuple[User, User]) -> None:
    """A store that an unprivileged user owns is refused to others with the path, the mode and the setting; named in
    that setting, and for its owner and root's kernels under their own rules, it is used."""
    ada, bob = users
    give(store, ada)
    settings = shared_settings(store)
    with pytest.raises(NotTrustedError) as caught:
        bob.does(lambda: launch(settings))
    for words in (str(store.store.root), "mode 0755", ada.name, "c.Sepal.trusted_users"):
        assert words in caught.value.message
    Path(settings.store).mkdir(mode=0o755)
    os.chown(settings.store, bob.number, bob.group)
    with pytest.raises(NotTrustedError):
        bob.does(lambda: launch(settings))
    (line,) = audit.lines(Path(settings.store))
    assert (line["action"], line["result"], line["user"]) == ("launch", "not-trusted", bob.name)
    with pytest.raises(NotTrustedError):
        launch(shared_settings(store))
    trusting = shared_settings(store, trusted_users=[ada.name])
    assert bob.does(lambda: launch(trusting))
    assert bob.does(lambda: launch(shared_settings_of(store, trusting, [str(ada.number)])))
    assert ada.does(lambda: launch(settings))


def shared_settings_of(site: Site, settings: Sepal, trusted: list[str]) -> Sepal:
    """The same settings with other trusted users."""
    return Sepal(store=settings.store, search_stores=[str(site.store.root)], trusted_users=trusted)


PLACES = (
    "", "index.json", "environments", f"environments/{NAME}", f"environments/{NAME}/P", f"environments/{NAME}/P/.sepal",
    f"environments/{NAME}/P/.sepal/build.json", f"environments/{NAME}/P/bin", "apps", "apps/forest",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["everybody", "a group", "another user"])
def test_what_another_user_could_have_written_is_refused(
    store: Site, users: tuple[User, User], place: str, how: str
) -> None:
    """Wherever on the way to a kernel's code somebody else may write, the launch is refused, with that path."""
    ada, bob = users
    path = store.store.root / place.replace("P", store.store.generations(NAME)[0].path.name)
    if how == "everybody":
        path.chmod(path.stat().st_mode | stat.S_IWOTH)
    elif how == "a group":
        os.chown(path, -1, ada.group)
        path.chmod(path.stat().st_mode | stat.S_IWGRP)
    else:
        os.chown(path, ada.number, -1)
    settings = shared_settings(store)
    for who in (bob.does, lambda function: function()):
        with pytest.raises(NotTrustedError) as caught:
            who(lambda: launch(settings))
        assert f"{path} is not used" in caught.value.message
        assert f"mode {stat.S_IMODE(path.lstat().st_mode):04o}" in caught.value.message


def test_a_folder_above_the_store_counts_too(store: Site, users: tuple[User, User]) -> None:
    """Whoever may write the folder in which a store lies could replace it; a sticky folder such as /tmp is fine."""
    _, bob = users
    settings = shared_settings(store)
    store.root.chmod(0o777)
    with pytest.raises(NotTrustedError, match="every user may write it"):
        bob.does(lambda: launch(settings))
    store.root.chmod(0o1777)
    assert bob.does(lambda: launch(settings))


def test_a_group_that_is_configured_may_write(store: Site, users: tuple[User, User]) -> None:
    """Files that the configured group may write are trusted; made in such a store, new ones are the group's as well."""
    ada, bob = users
    subprocess.run(["chgrp", "-R", "-h", ada.name, store.store.root], check=True)
    subprocess.run(["chmod", "-R", "g+w", store.store.root], check=True)
    settings = shared_settings(store)
    with pytest.raises(NotTrustedError, match=f"the group {ada.name} may write it"):
        bob.does(lambda: launch(settings))
    assert bob.does(lambda: launch(Sepal(store=settings.store, search_stores=settings.search_stores, group=ada.name)))
    fresh = Site(store.root / "fresh", store.mirrors, {"group": ada.name}, store.apps[:1])
    fresh.write()
    sepal(fresh, "sync")
    fresh.build(NAME)
    for path in (fresh.store.root, *fresh.store.root.rglob("*")):
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode) or "pkgs" in path.parts or path.name.endswith("request.json"):
            continue
        if stat.S_ISDIR(info.st_mode) and len(path.relative_to(fresh.store.root).parts) < 4:
            assert info.st_gid == ada.group and info.st_mode & stat.S_IWGRP, path
    shutil.rmtree(fresh.root)


def test_whoever_may_not_build_learns_whom_to_ask(store: Site, users: tuple[User, User]) -> None:
    """An environment that is missing from the shared store is built in the user's own; where there is none that may be
    written, the message names the administrator."""
    ada, bob = users
    give(store, ada)
    only_shared = Sepal(store=str(store.store.root))
    stores = Stores.of(only_shared.store)
    assert stores.observe(stores.find("venv-missing")[1]).state is State.MISSING
    with pytest.raises(StoreReadOnlyError, match=f"Ask {ada.name} to run `jupyter sepal build venv-missing`"):
        bob.does(lambda: request_build(stores, "venv-missing", only_shared))
    asking = Sepal(store=str(store.store.root), contact="help@example.org")
    with pytest.raises(StoreReadOnlyError, match=r"Ask help@example\.org to run"):
        bob.does(lambda: request_build(stores, "venv-missing", asking))
    own = shared_settings(store)
    build = bob.does(
        lambda: str(request_build(Stores.of(own.store, own.search_stores), "venv-missing", own).store.root)
    )  # type: ignore[union-attr]
    assert build == own.store, "a user's own store behind the shared one"


def test_a_store_that_is_mounted_read_only(store: Site, users: tuple[User, User]) -> None:
    """From a read-only mount a user launches with a lock as from anywhere else, and nothing is written there."""
    _, bob = users
    mounted = Path(tempfile.mkdtemp(prefix="mounted-", dir=store.root))
    mounted.chmod(0o755)
    bind = subprocess.run(["mount", "--bind", store.store.root, mounted], check=False, capture_output=True)
    if bind.returncode:
        pytest.skip("a folder can't be mounted here")
    try:
        if subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=False, capture_output=True).returncode:
            pytest.skip("nothing can be mounted read-only here")
        settings = Sepal(store=str(store.root / "own"), search_stores=[str(mounted)])
        ready = ready_generation(Stores.of(settings.store, settings.search_stores), NAME)
        assert ready is not None and str(ready.path).startswith(str(mounted))
        with pytest.raises(OSError, match="Read-only"):
            (mounted / "index.json").touch()

        def hold() -> bool:
            launched = prepare(ready, NAME, os.environ, settings)
            return launched.lock >= 0 and locks.shared(store.store.generations(NAME)[0].marker)

        assert bob.does(hold), "the lock is seen through the other mount"
    finally:
        subprocess.run(["umount", mounted], check=False)


def test_roots_own_files_are_trusted_by_all(users: tuple[User, User], tmp_path: Path) -> None:
    """What root owns and nobody else writes passes; what is not there is nobody's fault; links count by their owner."""
    ada, _ = users
    trust = Trust.of(Sepal())
    file = tmp_path / "file"
    trust.check([file])
    file.touch()
    trust.check([file])
    link = tmp_path / "link"
    link.symlink_to(file)
    trust.check([link])
    os.chown(link, ada.number, -1, follow_symlinks=False)
    with pytest.raises(NotTrustedError, match="another user owns it"):
        trust.check([link])
