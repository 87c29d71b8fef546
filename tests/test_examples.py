"""The example, as the README starts it: a real JupyterLab, its catalog, and the notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Site
from server import JupyterServer

from sepal_provisioner.catalog import parse_catalog

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_the_catalog_shows_each_kind_of_entry() -> None:
    """Two kernels that are seen, one that is hidden, and an entry that is none."""
    catalog = parse_catalog((EXAMPLES / "apps.json").read_bytes(), frozenset({"file"}))
    assert not catalog.problems
    kernels = {app.kernel_name: app.hidden for app in catalog.apps if app.is_kernel}
    assert kernels == {"venv-geo": False, "venv-wheels": False, "venv-training": True}
    assert [app.id for app in catalog.apps if not app.is_kernel] == ["earthmap"]


def test_the_example_runs(channel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JupyterLab on the example's configuration lists its kernels, builds the hidden one on its first start, and the
    training notebook's cells give what they promise; a second kernel, from PyPI alone, runs too."""
    env = {"SEPAL_EXAMPLE_WORK": str(tmp_path / "work"), "SEPAL_EXAMPLE_CHANNEL": f"file://{channel}/conda-forge"}
    config = tmp_path / "jupyter_server_config.py"
    # The server helper puts its log and root beside the configuration: a link keeps the example's folder clean.
    config.write_text(f"load_subconfig({str(EXAMPLES / 'jupyter_server_config.py')!r})\n")
    with JupyterServer(config, env=env, app="lab") as lab:
        specs = lab.kernelspecs()
        assert {"venv-geo", "venv-wheels", "venv-training"} <= set(specs)
        notebook = json.loads((tmp_path / "work" / "store" / "apps" / "training" / "training.ipynb").read_text())
        with lab.kernel(notebook["metadata"]["kernelspec"]["name"]) as kernel:
            cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
            replies = [kernel.run(cell) for cell in cells]
        assert not any(reply.error for reply in replies)
        prefix = replies[0].text.split()[1]
        assert "From degrees to metres" in replies[0].text
        assert f"{prefix}/share/proj" in replies[1].text and "Rome lies 292," in replies[1].text
        with lab.kernel("venv-wheels") as kernel:
            assert kernel.run("import rasterio.crs; rasterio.crs.CRS.from_epsg(4326).to_epsg()").result == "4326"


def test_the_command_line_works_on_the_example(channel: Path, tmp_path: Path) -> None:
    """`jupyter sepal list --config=examples/…`, as the example's page says, once synced."""
    import os

    env = {**os.environ, "SEPAL_EXAMPLE_WORK": str(tmp_path / "work")}
    command = [sys.executable, "-m", "jupyter", "sepal"]
    config = f"--config={EXAMPLES / 'jupyter_server_config.py'}"
    subprocess.run([*command, "sync", config], check=True, env=env, capture_output=True)
    done = subprocess.run([*command, "list", "--json", config], check=True, env=env, capture_output=True, text=True)
    assert len(json.loads(done.stdout)) == 3


def test_the_settings_of_a_site_survive_the_way_to_a_build(site: Site) -> None:
    """What a server is configured with is what its build processes and installed kernels get."""
    from sepal_provisioner.settings import Sepal

    settings = site.settings()
    assert Sepal.from_json(json.loads(json.dumps(settings.to_json()))).to_json() == settings.to_json()
