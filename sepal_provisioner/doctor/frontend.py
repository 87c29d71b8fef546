"""The Jupyter server: does it list our kernels, and do its front-end packages fit those of the environments?

Widgets are drawn by the server's own JavaScript: an environment's ipywidgets 7 and a server's manager for 8 understand
each other badly, and a widget whose package the server lacks stays blank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_path

from ..files import read_json
from ..store import Stores
from .finding import Finding, Level

OURS = "SepalKernelSpecManager"
SHOWN = 200  # characters of a name or version that a package gives itself


def check_server(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Is our kernel spec manager in the server's slot?"""
    line = 'c.ServerApp.kernel_spec_manager_class = "sepal_provisioner.SepalKernelSpecManager"'
    remedy = f"Write {line} in jupyter_server_config.py (files in jupyter_server_config.d can't)."
    value = config.get("ServerApp", {}).get("kernel_spec_manager_class")
    name = value if isinstance(value, str) else getattr(value, "__name__", "")
    if name.rpartition(".")[2] == OURS:
        yield Finding("server", Level.OK, "the server lists the catalog's kernels")
    elif name:
        yield Finding(
            "server",
            Level.WARNING,
            f"the server's kernel_spec_manager_class is {name}",
            "unless that one is derived from ours, JupyterLab shows none of the catalog's kernels",
            f"{remedy} c.Sepal.kernel_spec_manager_class then names the other one.",
        )
    else:
        yield Finding(
            "server",
            Level.WARNING,
            "the configuration that was read sets no kernel_spec_manager_class",
            "JupyterLab then shows none of the catalog's kernels; a hub may set it elsewhere",
            remedy,
        )


def check_front_ends(stores: Stores) -> Iterator[Finding]:
    """Does the server have each front-end package that a ready environment brings, in the same major version?"""
    server = front_ends([Path(folder) for folder in jupyter_path("labextensions")])
    for _, kernel in stores.kernels():
        generation = stores.observe(kernel).ready
        if generation is None:
            continue
        own = front_ends([generation.path / "share" / "jupyter" / "labextensions"])
        findings = list(compare(kernel.name, own, server))
        yield from findings
        if own and not findings:
            yield Finding("widgets", Level.OK, f"{kernel.name}: {', '.join(sorted(own))} as on the server")


def front_ends(folders: Sequence[Path]) -> dict[str, str]:
    """The prebuilt front-end packages below some folders, and their versions; the first one of a name counts."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in (*folder.glob("*/package.json"), *folder.glob("@*/*/package.json")):
            try:
                document = read_json(path, 1_000_000)
                name, version = str(document["name"])[:SHOWN], str(document["version"])[:SHOWN]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            found.setdefault(name, version)
    return found


def compare(kernel: str, own: Mapping[str, str], server: Mapping[str, str]) -> Iterator[Finding]:
    """What of an environment's front-end packages the server lacks, or has in another major version."""
    for name, version in sorted(own.items()):
        there = server.get(name)
        if there is None:
            widgets = name == "@jupyter-widgets/jupyterlab-manager"
            yield Finding(
                "widgets",
                Level.WARNING if widgets else Level.INFO,
                f"{kernel} brings {name} {version}, the server has none",
                "what it draws stays blank in JupyterLab",
                f"Install the package that brings {name} beside JupyterLab{': jupyterlab_widgets' if widgets else ''}.",
            )
        elif _major(there) != _major(version):
            yield Finding(
                "widgets",
                Level.WARNING,
                f"{kernel} brings {name} {version}, the server has {there}",
                "front end and kernel of different major versions often don't understand each other",
                f"Give the environment the version that fits {there}, or the server the one that fits {version}.",
            )


def _major(version: str) -> str:
    """`0.4.1` counts as 0.4: before 1.0 the second number is the major one."""
    first, _, rest = version.partition(".")
    return f"0.{rest.partition('.')[0]}" if first == "0" else first
