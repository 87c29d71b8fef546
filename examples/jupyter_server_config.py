"""JupyterLab on the example catalog: `jupyter lab --config=examples/jupyter_server_config.py`.

Everything it makes goes to `examples/.work`; remove that folder to begin anew. Two variables change it:

    SEPAL_EXAMPLE_WORK      another folder instead of `examples/.work`
    SEPAL_EXAMPLE_CHANNEL   a mirror of conda-forge (`file:///srv/channel/conda-forge`), for machines without internet
"""

import os
import sys
from pathlib import Path

c = get_config()  # noqa: F821 - traitlets provides it

here = Path(__file__).resolve().parent
work = Path(os.environ.get("SEPAL_EXAMPLE_WORK", here / ".work")).absolute()
sys.path.insert(0, str(here))
from prepare import prepare  # noqa: E402

catalog = prepare(work)

# The one line that every site needs: it puts the catalog's kernels into the launcher.
c.ServerApp.kernel_spec_manager_class = "sepal_provisioner.SepalKernelSpecManager"

c.Sepal.catalogs = [str(catalog)]
c.Sepal.store = str(work / "store")
c.Sepal.repository_schemes = ["https", "ssh", "file"]  # `file`, for the example's repositories are on this machine
if channel := os.environ.get("SEPAL_EXAMPLE_CHANNEL"):
    c.Sepal.channel_mirrors = {"conda-forge": channel}

# The file browser shows the applications' notebooks.
(work / "store" / "apps").mkdir(parents=True, exist_ok=True)
c.ServerApp.root_dir = str(work / "store" / "apps")
