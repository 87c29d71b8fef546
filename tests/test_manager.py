"""The kernel spec manager: what it lists, what it leaves to others, and what it never does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Site, commit
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from sepal_provisioner import locks
from sepal_provisioner.generation import Record
from sepal_provisioner.manager import SepalKernelSpecManager
from sepal_provisioner.store import Store

CONDA = "channels: [conda-forge]\ndependencies: [python]\n"


def manager(site: Site, **options: object) -> SepalKernelSpecManager:
    """A manager of a site, without a background refresh."""
    site.options.setdefault("refresh_interval", 0)
    return SepalKernelSpecManager(settings=site.settings(), **options)


def publish(store: Store, name: str, fingerprint: str, **values: object) -> None:
    """A ready prefix as far as listing can see: a marker."""
    generation = store.next_generation(name, fingerprint)
    generation.publish(Record(name=name, fingerprint=fingerprint, engine="test", **values))  # type: ignore[arg-type]


@pytest.fixture
def listed(site: Site) -> Site:
    """A synced site with the kernels venv-one and venv-two."""
    site.add("One", {"sepal_environment.yml": CONDA}, label="Ünï 森林")
    site.add("two", {"sepal_environment.yml": CONDA})
    site.sync()
    return site


def test_ours_are_listed_besides_the_stock_ones(listed: Site) -> None:
    """Everything that the stock manager finds is there, and the catalog's kernels, named `(venv) <label>`."""
    stock = KernelSpecManager().get_all_specs()
    specs = manager(listed).get_all_specs()
    assert set(specs) == {*stock, "venv-one", "venv-two"}
    assert specs["venv-one"]["spec"]["display_name"] == "(venv) Ünï 森林"
    assert specs["python3"]["spec"] == stock["python3"]["spec"]


def test_every_way_of_asking_gives_the_same(listed: Site) -> None:
    """find_kernel_specs, get_kernel_spec and get_all_specs agree on names, folders and content."""
    found = manager(listed)
    everything = found.get_all_specs()
    assert found.find_kernel_specs() == {name: spec["resource_dir"] for name, spec in everything.items()}
    for name in ("venv-one", "venv-two", "python3"):
        assert found.get_kernel_spec(name).to_dict() == everything[name]["spec"]
        assert found.get_kernel_spec(name).resource_dir == everything[name]["resource_dir"]


def test_names_are_looked_up_in_any_case(listed: Site) -> None:
    """A notebook that says `venv-One` gets the kernel `venv-one`."""
    assert manager(listed).get_kernel_spec("VENV-One").metadata["sepal"]["name"] == "venv-one"


def test_allowed_kernelspecs_is_honoured(listed: Site) -> None:
    """An allow-list hides ours as it hides the others."""
    found = manager(listed, allowed_kernelspecs={"venv-two", "python3"})
    assert set(found.get_all_specs()) == set(found.find_kernel_specs()) == {"venv-two", "python3"}
    with pytest.raises(NoSuchKernel):
        found.get_kernel_spec("venv-one")


def test_a_missing_name_is_an_error_and_a_line_in_the_log(listed: Site, caplog: pytest.LogCaptureFixture) -> None:
    """NoSuchKernel for the client, and for the administrator the name that was probably meant."""
    found = manager(listed)
    found.log.addHandler(caplog.handler)
    with pytest.raises(NoSuchKernel):
        found.get_kernel_spec("venv-tow")
    assert "venv-two" in caplog.text


class OtherManager(KernelSpecManager):
    """Another manager in the slot, as nb_conda_kernels is one: it finds kernels where nobody else looks."""

    def find_kernel_specs(self) -> dict[str, str]:
        return {"conda-env-x": "/somewhere"}

    def get_kernel_spec(self, kernel_name: str):  # type: ignore[no-untyped-def]
        if kernel_name != "conda-env-x":
            raise NoSuchKernel(kernel_name)
        return self.kernel_spec_class(resource_dir="/somewhere", argv=["x"], display_name="X", language="r")


def test_another_managers_kernels_are_kept(listed: Site) -> None:
    """A setting names the manager that is wrapped: its kernels are listed and found besides ours."""
    listed.options["kernel_spec_manager_class"] = "test_manager.OtherManager"
    found = manager(listed)
    assert set(found.get_all_specs()) == set(found.find_kernel_specs()) == {"conda-env-x", "venv-one", "venv-two"}
    assert found.get_kernel_spec("conda-env-x").language == "r"
    with pytest.raises(NoSuchKernel):
        found.get_kernel_spec("python3")


def test_a_state_change_is_seen_at_the_next_listing(listed: Site) -> None:
    """Missing, building (the lock is held), ready with size and duration, stale: each listing tells what is there
    now."""
    found = manager(listed)

    def sepal() -> dict[str, object]:
        return found.get_all_specs()["venv-one"]["spec"]["metadata"]["sepal"]

    kernel = listed.stores.find("venv-one")[1]
    assert (sepal()["state"], sepal()["size"], sepal()["last_build"]) == ("missing", None, None)
    with locks.exclusive(listed.store.beside(kernel.name, kernel.fingerprint, "lock"), timeout=0, waiting_for=""):
        assert sepal()["state"] == "building"
    assert sepal()["state"] == "missing"
    publish(listed.store, kernel.name, kernel.fingerprint, size=7, built=5.0, seconds=3.0)
    assert sepal()["state"] == "ready"
    assert (sepal()["size"], sepal()["last_build"]) == (7, {"ended": 5.0, "seconds": 3.0})
    commit(listed.repository("One"), {"sepal_environment.yml": CONDA.replace("python", "python, numpy")})
    listed.sync()
    assert sepal()["state"] == "stale"


def test_a_listing_never_loses_a_kernel(listed: Site) -> None:
    """An index that is damaged, or gone for a moment, leaves the kernels as they were last seen."""
    found = manager(listed)
    assert "venv-one" in found.get_all_specs()
    text = listed.store.index_path.read_text()
    listed.store.index_path.write_text(text[: len(text) // 2])
    assert "venv-one" in found.get_all_specs()
    listed.store.index_path.unlink()
    assert "venv-one" in found.get_all_specs()
    listed.sync()
    assert "venv-one" in found.get_all_specs()


def test_a_shared_store_comes_first_and_is_never_written(listed: Site, tmp_path: Path) -> None:
    """A kernel of a searched store is listed with that store's prefix; one's own store adds to it."""
    kernel = listed.stores.find("venv-one")[1]
    publish(listed.store, kernel.name, kernel.fingerprint, size=1)
    own = Site(tmp_path / "own", options={"search_stores": [str(listed.store.root)]})
    own.add("mine", {"sepal_environment.yml": CONDA})
    own.sync()
    before = sorted(path.stat().st_mtime_ns for path in listed.store.root.rglob("*"))
    specs = manager(own).get_all_specs()
    assert {"venv-one", "venv-two", "venv-mine"} <= set(specs)
    assert specs["venv-one"]["spec"]["metadata"]["sepal"]["state"] == "ready"
    assert sorted(path.stat().st_mtime_ns for path in listed.store.root.rglob("*")) == before


LISTING = """
import sys
from pathlib import Path
from sepal_provisioner.manager import SepalKernelSpecManager
from sepal_provisioner.settings import Sepal
from jupyter_client.kernelspec import KernelSpecManager

KernelSpecManager().get_all_specs()  # the stock part makes IPython's folder at its first look
found = SepalKernelSpecManager(settings=Sepal(**{settings!r}))
forbidden = []

def watch(event, arguments):
    if event.split(".")[0] in ("subprocess", "socket", "urllib", "shutil") or event in (
        "os.fork", "os.exec", "os.posix_spawn", "os.system", "os.mkdir", "os.rename", "os.remove", "os.symlink"):
        forbidden.append((event, arguments))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        forbidden.append((event, arguments))
    if event == "open" and arguments[2] & 0o3:
        forbidden.append((event, arguments))

sys.addaudithook(watch)
assert "venv-one" in found.get_all_specs()
assert found.get_kernel_spec("venv-one").argv
assert not forbidden, forbidden
"""


def test_a_listing_touches_no_network_no_git_no_process_and_no_file(listed: Site) -> None:
    """While kernels are listed, the interpreter's audit sees no process, no socket and nothing opened for writing."""
    listed.options["refresh_interval"] = 0
    code = LISTING.format(settings=listed.values())
    subprocess.run([sys.executable, "-B", "-c", code], check=True, cwd="/")


def test_the_first_listing_of_an_empty_store_waits_for_the_first_sync(site: Site) -> None:
    """A new server shows the kernels at the first look, without anybody having synced."""
    site.add("one", {"sepal_environment.yml": CONDA})
    site.options |= {"refresh_interval": 3600, "first_sync_wait": 60}
    assert "venv-one" in manager(site).get_all_specs()


def test_the_wait_for_the_first_sync_is_bounded(site: Site) -> None:
    """A repository that never answers does not keep the launcher from showing what there is."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/owner/hangs"
        site.apps.append({"id": "hangs", "label": "H", "endpoint": "jupyter", "repository": url})
        site.write()
        site.options |= {
            "refresh_interval": 3600,
            "first_sync_wait": 0.5,
            "repository_schemes": ["http"],
            "git_timeout": 600,
        }
        found = manager(site)
        assert "python3" in found.get_all_specs()
        assert not found.refresher.wait_for_first(0), "it waited for the repository"
    assert found.refresher.wait_for_first(120), "nobody is there any more, and the sync ends"


def test_the_background_refresh_sees_a_new_commit(site: Site) -> None:
    """A server that may write its store finds a changed repository by itself."""
    site.add("one", {"sepal_environment.yml": CONDA})
    site.options |= {"refresh_interval": 1, "first_sync_wait": 60}
    found = manager(site)
    before = found.get_all_specs()["venv-one"]["spec"]["metadata"]["sepal"]["commit"]
    moved = commit(site.repository("one"), {"README": "new"})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now = found.get_all_specs()["venv-one"]["spec"]["metadata"]["sepal"]["commit"]
        if now == moved:
            break
        assert now == before
        time.sleep(0.1)
    assert now == moved


def test_a_store_that_cannot_be_written_is_never_refreshed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may only read a store lists what is in it and starts nothing."""
    site.add("one", {"sepal_environment.yml": CONDA})
    site.sync()
    monkeypatch.setattr("sepal_provisioner.refresh.writable", lambda folder: False)
    site.options["refresh_interval"] = 1
    found = manager(site)
    assert "venv-one" in found.get_all_specs()
    assert found.refresher.start() is False


def test_metadata_never_shows_credentials(listed: Site) -> None:
    """Whatever an index holds, a repository's password is not in what the browser gets."""
    document = json.loads(listed.store.index_path.read_text())
    document["kernels"][0]["repository"] = "https://user:hunter2@example.org/owner/One"
    listed.store.index_path.write_text(json.dumps(document))
    specs = manager(listed).get_all_specs()
    assert specs["venv-one"]["spec"]["metadata"]["sepal"]["repository"] == "https://example.org/owner/One"
    assert "hunter2" not in json.dumps(specs)
