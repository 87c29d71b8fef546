"""The server extension: `/sepal/api`, the dashboard at `/sepal`, Jupyter events and metrics.

The package's own `jupyter_server_config.d/sepal_provisioner.json` enables it.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Where jupyter_server finds the extension. Called when a server starts."""
    from .app import SepalExtension

    return [{"module": "sepal_provisioner.extension", "app": SepalExtension}]
