"""Moving here from another script: what is there is taken over where it lies, and nothing is built again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Site, commit
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from test_commands import document, sepal

from sepal_provisioner import prune
from sepal_provisioner.launch import ready_generation
from sepal_provisioner.store import State

FILE = "channels: [conda-forge]\ndependencies: [python]\n"


@pytest.fixture
def platform(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The platform's layout, `<data>/kernels/venv-App/venv`, with one environment that its script has built."""
    site.add("App", {"sepal_environment.yml": FILE})
    site.sync()
    kernels = site.root / "data" / "kernels"
    prefix = kernels / "venv-App" / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", prefix], check=True)
    library = next(prefix.glob("lib/python*/site-packages"))
    (library / "here.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")) + "\n")
    (prefix.parent / "kernel.json").write_text("{}")
    monkeypatch.setenv("JUPYTER_PATH", str(site.root / "data"))
    return prefix


def test_an_existing_environment_is_taken_over(site: Site, platform: Path) -> None:
    """What the script built is found by its capital letters too, ready at once, launched where it lies, and has a
    record and a lock as any other; adopting again changes nothing."""
    (adopted,) = document(site, "adopt", "--all")["kernels"]
    assert adopted["error"] is None and adopted["from"] == str(platform)
    (listed,) = document(site, "list")
    assert listed["state"] == "ready"
    ready = ready_generation(site.stores, "venv-app")
    assert ready is not None and ready.path.resolve() == platform
    assert ready.record().engine == "adopted" and not ready.record().conda
    assert sepal(site, "lock", "venv-app").stdout
    assert document(site, "adopt", "--all")["kernels"] == []

    sepal(site, "install", f"--prefix={site.root / 'installed'}")
    folder = site.root / "installed" / "share" / "jupyter" / "kernels"
    assert (folder / "venv-app" / "venv").resolve() == platform, "the platform's path goes on leading to it"
    manager = KernelManager(kernel_name="venv-app", kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(folder)]))
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        reply = client.execute("1", user_expressions={"where": "__import__('sys').prefix"}, reply=True, timeout=120)
        shown = reply["content"]["user_expressions"]["where"]["data"]["text/plain"].strip("'")
        assert os.path.samefile(shown, platform)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_what_is_not_current_is_not_adopted(site: Site, platform: Path) -> None:
    """An environment older than the repository's commit is left alone with that reason, and adopted with --force."""
    long_ago = (platform / "pyvenv.cfg").stat().st_mtime - 90_000
    os.utime(platform / "pyvenv.cfg", (long_ago, long_ago))
    commit(site.repository("App"), {"sepal_environment.yml": FILE + "variables: {NEW: '1'}\n"})
    site.sync()
    (left,) = document(site, "adopt", "--all")["kernels"]
    assert left["prefix"] is None and left["error"]["code"] == "changed-meanwhile"
    assert "older than the newest commit" in left["error"]["message"]
    assert site.stores.observe(site.stores.find("venv-app")[1]).state is State.MISSING
    assert document(site, "adopt", "venv-app", "--force")["kernels"][0]["prefix"]


def test_what_does_not_work_is_not_adopted(site: Site, platform: Path) -> None:
    """An environment whose kernel doesn't start stays what it was: neither a marker nor a link is left of it."""
    (next(platform.glob("lib/python*/site-packages")) / "here.pth").unlink()
    (platform / "pyvenv.cfg").write_text(
        (platform / "pyvenv.cfg").read_text().replace("site-packages = true", "site-packages = false")
    )
    done = document(site, "adopt", "venv-app", f"--prefix={platform}", code=1)
    assert done["kernels"][0]["error"]["code"] == "probe-failed"
    assert not site.store.generations("venv-app") and not (platform / ".sepal" / "build.json").exists()
    assert "no bin/python" in sepal(site, "adopt", "venv-app", "--prefix=/tmp", code=1).stdout
    (platform / "bin" / "python").unlink()
    assert "say where it is" in sepal(site, "adopt", "venv-app", code=2).stderr


def test_a_prune_leaves_the_files_of_an_adopted_environment(site: Site, platform: Path) -> None:
    """When the next version is built, only the store's link to an adopted environment goes, never its files."""
    site.options["keep_generations"] = 0
    document(site, "adopt", "--all")
    adopted = ready_generation(site.stores, "venv-app")
    assert adopted is not None
    prune.remove_prefix(site.store, adopted)
    assert not adopted.path.is_symlink() and (platform / "bin" / "python").exists()
    assert not site.store.generations("venv-app")
