"""`jupyter sepal try`: a kernel from a working tree, for its author only, and nothing left of it afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Site, commit
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from sepal_provisioner import trial
from sepal_provisioner.errors import BusyError
from sepal_provisioner.manager import SepalKernelSpecManager

FILE = "channels: [conda-forge]\ndependencies: [python, sepal-demo={version}]\n"
CODE = "import sepal_demo, sys; print(sepal_demo.__version__, sys.prefix)"


def sepal(site: Site, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `jupyter sepal try` with the site's configuration; it must end with `code`."""
    command = [sys.executable, "-m", "jupyter", "sepal", "try", *arguments, f"--config={site.config()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=site.root)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def document(site: Site, *arguments: str, code: int = 0) -> Any:
    """The JSON document of `try`."""
    return json.loads(sepal(site, *arguments, "--json", code=code).stdout)


def run_cell(name: str, code: str) -> str:
    """What a cell prints in a kernel that a stock client starts."""
    manager = KernelManager(kernel_name=name)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        printed: list[str] = []
        client.execute_interactive(
            code, timeout=60, output_hook=lambda message: printed.append(message["content"].get("text", ""))
        )
        return "".join(printed).strip()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def everything(folder: Path) -> set[str]:
    """Every file and folder below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_the_way_of_an_author(conda_site: Site) -> None:
    """Try, use it, change the file, try again, use that, remove: the tree's own state counts, and nothing is left."""
    tree = conda_site.root / "Forest.app"
    commit(tree, {"sepal_environment.yml": "dependencies: [python]\n"})
    file = tree / "sepal_environment.yml"
    file.write_text(FILE.format(version="1.0"))  # not committed
    data = Path(os.environ["JUPYTER_DATA_DIR"])

    first = document(conda_site, "Forest.app")
    assert (first["name"], first["display_name"], first["built"]) == ("test-forest.app", "(test) Forest.app", True)
    assert run_cell("test-forest.app", CODE) == f"1.0 {first['prefix']}"
    spec = SepalKernelSpecManager(config=None).get_all_specs()["test-forest.app"]
    assert spec["spec"]["display_name"] == "(test) Forest.app"
    assert not conda_site.store.index_path.exists(), "the catalog's store knows nothing of it"
    again = document(conda_site, str(tree))
    assert (again["built"], again["prefix"]) == (False, first["prefix"])

    file.write_text(FILE.format(version="2.0"))
    said = sepal(conda_site, str(tree))
    assert "(test) Forest.app" in said.stdout and "test-forest.app: Verifying" in said.stderr
    second = document(conda_site, str(tree))
    assert run_cell("test-forest.app", CODE) == f"2.0 {second['prefix']}"
    assert not Path(first["prefix"]).exists(), "what is replaced goes"

    assert document(conda_site, str(tree), "--remove") == {"name": "test-forest.app", "removed": True}
    assert "test-forest.app" not in KernelSpecManager().find_kernel_specs()
    assert everything(data / "kernels") == set() and everything(conda_site.store.root) == set()
    assert everything(tree) - {path for path in everything(tree) if path.startswith(".git")} == {file.name}
    assert document(conda_site, "test-forest.app", "--remove")["removed"] is False


def test_a_kernel_that_runs_keeps_what_it_started_with(conda_site: Site) -> None:
    """Removing under a running kernel is refused in words; the kernel works on, and its end makes way."""
    tree = conda_site.root / "forest"
    commit(tree, {"sepal_environment.yml": FILE.format(version="1.0")})
    document(conda_site, str(tree))
    manager = KernelManager(kernel_name="test-forest")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        assert "Shut that kernel down" in sepal(conda_site, str(tree), "--remove", code=BusyError.exit_code).stderr
        reply = client.execute("import sepal_demo", reply=True, timeout=60)
        assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert document(conda_site, "forest", "--remove")["removed"] is True


def test_a_change_that_cant_be_built_leaves_the_last_one_usable(conda_site: Site) -> None:
    """A try that fails says why and where its log is; the kernel goes on with what was built last."""
    tree = conda_site.root / "forest"
    commit(tree, {"sepal_environment.yml": FILE.format(version="1.0")})
    first = document(conda_site, str(tree))
    (tree / "sepal_environment.yml").write_text("channels: [conda-forge]\ndependencies: [python, broken-dep]\n")
    failed = sepal(conda_site, str(tree), code=12)
    assert "no-such-library" in failed.stderr
    (log,) = [line.removeprefix("The log: ") for line in failed.stderr.splitlines() if line.startswith("The log: ")]
    assert Path(log).is_file()
    assert f"1.0 {first['prefix']}" in run_cell("test-forest", CODE)
    assert document(conda_site, str(tree), "--remove")["removed"]


def test_an_editable_project_and_a_notebook(conda_site: Site) -> None:
    """`-e .` is read live from the tree; --run executes a notebook of it in the kernel, or says which cell fails."""
    pytest.importorskip("nbclient")
    tree = conda_site.root / "forest"

    def cell(source: str) -> str:
        one = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        return json.dumps({"cells": [one], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})

    commit(
        tree,
        {
            "sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python, pip: ['-e .']]\n",
            "pyproject.toml": '[project]\nname = "trees"\nversion = "1"\n[tool.setuptools]\npy-modules = ["trees"]\n',
            "trees.py": "height = 1\n",
            "ui.ipynb": cell("import trees; assert trees.height == 2"),
        },
    )
    failed = document(conda_site, str(tree), "--run=ui.ipynb", code=10)
    assert "AssertionError" in failed["error"]["detail"]
    (tree / "trees.py").write_text("height = 2\n")
    ran = document(conda_site, str(tree), "--run=ui.ipynb")
    assert (ran["built"], ran["notebook"]["cells"]) == (False, 1)
    assert document(conda_site, str(tree), "--remove")["removed"]


def test_the_package_cache_is_the_stores_own(conda_site: Site) -> None:
    """Beside a store that has packages, a trial uses its cache, and its removal leaves the store as it was."""
    conda_site.add("one", {"sepal_environment.yml": FILE.format(version="1.0")})
    conda_site.sync()
    conda_site.build("one")
    before = {path for path in everything(conda_site.store.root) if not path.startswith("pkgs")}
    document(conda_site, str(conda_site.repository("one")))
    settings = trial.trial_of(conda_site.repository("one"), conda_site.settings()).settings
    assert Path(settings.store, "pkgs").resolve() == conda_site.store.packages
    document(conda_site, str(conda_site.repository("one")), "--remove")
    after = {path for path in everything(conda_site.store.root) if not path.startswith("pkgs")}
    assert after == before and conda_site.store.packages.is_dir()


@pytest.mark.parametrize(
    ("files", "code", "words"),
    [
        ({"README.md": ""}, 5, "neither sepal_environment.yml"),
        ({"sepal_environment.yml": "dependencies: {}\n"}, 5, "line 1"),
        ({"sepal_environment.yml": "channels: [other]\ndependencies: [python]\n"}, 9, "allowed_channels"),
        ({"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [broken-dep]\n"}, 12, "no-such-library"),
    ],
    ids=["no file", "bad file", "not allowed", "unsolvable"],
)
def test_what_cant_be_tried_is_told_in_words(conda_site: Site, files: dict[str, str], code: int, words: str) -> None:
    """Each has the exit code of its error, and no kernel spec is written."""
    conda_site.options["allowed_channels"] = ["conda-forge"]
    tree = conda_site.root / "forest"
    commit(tree, files)
    assert words in sepal(conda_site, str(tree), code=code).stderr
    assert "test-forest" not in KernelSpecManager().find_kernel_specs()


def test_a_kernel_of_somebody_elses_making_stays(conda_site: Site) -> None:
    """A kernel spec that happens to have the name is neither replaced nor removed."""
    tree = conda_site.root / "forest"
    commit(tree, {"sepal_environment.yml": FILE.format(version="1.0")})
    spec = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels" / "test-forest" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text("{}")
    assert "somebody else" in sepal(conda_site, str(tree), code=2).stderr
    assert document(conda_site, str(tree), "--remove")["removed"] is False and spec.read_text() == "{}"


def test_where_the_store_cant_be_written_a_trial_is_built_at_home(
    conda_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of trials is in the configured store, or below the user's own data folder where that is read-only."""
    tree = conda_site.root / "forest"
    assert trial.trial_of(tree, conda_site.settings()).store.root.parent == conda_site.store.root / "try"
    monkeypatch.setattr("sepal_provisioner.store.writable", lambda folder: False)
    root = trial.trial_of(tree, conda_site.settings()).store.root
    assert root.parent == Path(os.environ["JUPYTER_DATA_DIR"]) / "sepal" / "try"


def test_mistakes_are_told_in_words(conda_site: Site) -> None:
    """No folder, no name, and a name that can't be a kernel's."""
    conda_site.root.mkdir(exist_ok=True)
    assert "Name one folder" in sepal(conda_site, code=2).stderr
    assert "There is no folder" in sepal(conda_site, "none", code=2).stderr
    assert "Rename the folder" in sepal(conda_site, "/", code=2).stderr
