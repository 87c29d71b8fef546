"""A kernel of the index as the kernel spec that Jupyter shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .catalog import without_credentials
from .index import Kernel

PROVISIONER = "sepal-provisioner"
RESOURCES = Path(__file__).parent / "resources"


def kernel_spec(kernel: Kernel, sepal: dict[str, Any]) -> dict[str, Any]:
    """The spec as `kernel.json` has it. `sepal` is what is known of its environment; see `describe`.

    `argv` is what a kernel is started with once its interpreter is known: the provisioner replaces the first word.
    """
    return {
        "argv": ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": kernel.display_name,
        "language": "python",
        "interrupt_mode": "signal",
        "env": {},
        "kernel_protocol_version": "",
        "metadata": {
            "debugger": True,
            "kernel_provisioner": {"provisioner_name": PROVISIONER, "config": {}},
            "sepal": sepal,
        },
    }


def describe(
    kernel: Kernel,
    state: str,
    size: int | None = None,
    built: float | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Our part of a kernel spec's metadata: `size` in bytes, `last_build` when there was one that succeeded."""
    return {
        "name": kernel.name,
        "app": kernel.app,
        "label": kernel.label,
        "repository": without_credentials(kernel.repository),
        "commit": kernel.commit,
        "environment_file": kernel.environment_file,
        "fingerprint": kernel.fingerprint,
        "state": state,
        "size": size,
        "last_build": None if built is None else {"ended": built, "seconds": seconds},
    }


def installed_spec(kernel: Kernel, launch_file: Path) -> dict[str, Any]:
    """The kernel spec on disk: no provisioner, for its `argv` does the same wherever it is started."""
    spec = kernel_spec(kernel, describe(kernel, "installed"))
    del spec["metadata"]["kernel_provisioner"]
    launcher = [sys.executable, "-m", "sepal_provisioner.launcher", str(launch_file)]
    return {**spec, "argv": [*launcher, "-f", "{connection_file}"]}
