"""`jupyter sepal list`."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from ..catalog import without_credentials
from ..files import human_size
from ..index import Kernel
from ..store import Environment
from .command import SepalCommand
from .table import print_table


class ListCommand(SepalCommand):
    """Show the catalog's kernels and whether their environments are built."""

    name = "jupyter-sepal-list"
    verb = "list"
    summary = "Show the kernels and their state."
    description = """Show the catalog's kernels and the state of their environments: ready, building, failed, stale (an
    older version is ready) or missing.
    """
    examples = dedent(
        """\
        jupyter sepal list
        jupyter sepal list --json | jq -r '.[] | select(.state != "ready") | .name'"""
    )

    def run(self) -> int:
        stores = self.stores()
        found = [(kernel, stores.observe(kernel)) for _, kernel in stores.kernels()]
        if self.json:
            self.print_json([kernel_document(kernel, environment) for kernel, environment in found])
            return 0
        if not found:
            self.say("No kernels are known. `jupyter sepal sync` reads the catalogs.")
        print_table(
            ("NAME", "STATE", "SIZE", "COMMIT", "LABEL"),
            [(k.name, e.state.value, _size(e), k.commit[:9], k.label) for k, e in found],
        )
        return 0


def kernel_document(kernel: Kernel, environment: Environment) -> dict[str, Any]:
    """One kernel for scripts. These keys are documented and stay; `prefix` is null unless `state` is `ready`."""
    return {
        "name": kernel.name,
        "display_name": kernel.display_name,
        "label": kernel.label,
        "app": kernel.app,
        "repository": without_credentials(kernel.repository),
        "commit": kernel.commit,
        "environment_file": kernel.environment_file,
        "fingerprint": kernel.fingerprint,
        "state": environment.state.value,
        "prefix": str(environment.ready.path) if environment.ready else None,
    }


def _size(environment: Environment) -> str:
    try:
        return human_size(environment.ready.record().size) if environment.ready else ""
    except (OSError, ValueError):
        return "?"
