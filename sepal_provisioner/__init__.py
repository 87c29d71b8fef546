"""Shared Jupyter kernels from a catalog of git repositories, built on first launch.

The public names are loaded when they are first asked for: `python -m sepal_provisioner.launcher` stands between a
user and a kernel and must not import what it does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Sepal", "SepalKernelSpecManager", "SepalProvisioner", "__version__"]

if TYPE_CHECKING:
    from .manager import SepalKernelSpecManager
    from .provisioner import SepalProvisioner
    from .settings import Sepal

_HOMES = {"Sepal": "settings", "SepalKernelSpecManager": "manager", "SepalProvisioner": "provisioner"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
