"""`jupyter sepal list`."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from ..catalog import without_credentials
from ..files import human_size, is_number
from ..generation import Record
from ..index import Kernel
from ..settings import Sepal
from ..store import Environment
from .command import SepalCommand, error_document
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


def build_document(record: Record) -> dict[str, Any]:
    """How a prefix was built, for scripts: the key `build` of `status` and of the server's API."""
    return {
        "engine": record.engine,
        "built": record.built,
        "seconds": record.seconds,
        "size": record.size,
        "user": record.user,
        "host": record.host,
        "commit": record.commit,
        "packages": len(record.packages),
        "durations": {name: value for name, value in record.durations.items() if is_number(value)},
    }


def failure_document(environment: Environment, settings: Sepal) -> dict[str, Any] | None:
    """Why there is no prefix, since when, and when a launch tries again; None where nothing failed."""
    failure, progress = environment.failure, environment.progress
    if failure is None or progress is None:
        return None
    return {
        **error_document(failure),
        "when": progress.ended or progress.updated,
        "attempts": max(int(progress.attempt), 1),
        "retry_at": progress.retry_at(settings.retry_after) or None,
    }


def _size(environment: Environment) -> str:
    try:
        return human_size(environment.ready.record().size) if environment.ready else ""
    except (OSError, ValueError):
        return "?"
