"""What every user's server is told about shared kernels."""

import json
import os
from pathlib import Path

c = get_config()  # noqa: F821 - Jupyter gives it to this file

c.ServerApp.kernel_spec_manager_class = "sepal_provisioner.SepalKernelSpecManager"
c.Sepal.search_stores = [os.environ.get("SEPAL_HUB_STORE", "/srv/sepal")]  # filled by an administrator, only read here
c.Sepal.store = str(Path.home() / ".local" / "share" / "sepal")  # for what is missing there
c.Sepal.refresh_interval = 0  # the administrator syncs
c.Sepal.contact = "the administrators of this hub"
c.Sepal.channel_mirrors = json.loads(os.environ.get("SEPAL_HUB_MIRRORS", "{}"))
