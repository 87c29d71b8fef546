"""JupyterHub with shared kernels: one store that an administrator fills, read by every user's server.

    SEPAL_HUB_STORE=/srv/sepal jupyterhub -f jupyterhub_config.py

Anybody may log in with any name here, and all servers run as one user: for trying out. A real hub keeps its own
authenticator and spawner, and takes what is marked below.
"""

import os
from pathlib import Path

c = get_config()  # noqa: F821 - JupyterHub gives it to this file

c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = os.environ.get("SEPAL_HUB_HOMES", "/tmp/sepal-hub") + "/{username}"

# What a real hub takes: every user's server reads the same configuration, which names the shared store. Where servers
# run in containers, put that file into the image as /etc/jupyter/jupyter_server_config.py and mount the store read-only
# at the path at which it was built.
c.Spawner.env_keep = ["PATH", "LANG", "SEPAL_HUB_STORE", "SEPAL_HUB_MIRRORS", "PYTHONPATH"]
c.Spawner.environment = {"JUPYTER_CONFIG_PATH": str(Path(__file__).resolve().parent / "server")}
