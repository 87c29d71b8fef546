"""`jupyter sepal lock`."""

from __future__ import annotations

import sys
from textwrap import dedent
from typing import Any

from ..errors import SettingsError
from ..lockfile import LOCK_FILE, LockedPackage, LockedPip
from ..provenance import read_lock
from .command import SepalCommand
from .ready import ready


class LockCommand(SepalCommand):
    """Print what a kernel's environment consists of, in a form that conda tools install from."""

    name = "jupyter-sepal-lock"
    verb = "lock"
    summary = "Print every package of a kernel's environment, with its URL and hash."
    description = f"""Print what a kernel's ready environment consists of: conda's explicit file, from which
    `conda create --file`, mamba and micromamba install, with pip's packages in comments. A repository that ships it as
    {LOCK_FILE} gets exactly these packages, whatever its channels hold by then.
    """
    examples = dedent(
        f"""\
        jupyter sepal lock venv-gwb > {LOCK_FILE}
        jupyter sepal lock venv-gwb --json | jq -r '.conda[].url'"""
    )

    def run(self) -> int:
        if len(self.extra_args) != 1:
            raise SettingsError("Name one kernel: jupyter sepal lock venv-gwb")
        stores = self.stores()
        store, kernel = stores.find(self.extra_args[0])
        generation = ready(stores.observe(kernel), kernel.name, "locked")
        lock = read_lock(generation.path, self.settings().channel_mirrors, store.apps / kernel.checkout)
        if not self.json:
            sys.stdout.write(lock.text())
            sys.stdout.flush()
            return 0
        self.print_json(
            {
                "name": kernel.name,
                "fingerprint": kernel.fingerprint,
                "prefix": str(generation.path),
                "platform": lock.platform,
                "conda": [conda_document(package) for package in lock.conda],
                "pip": [pip_document(package) for package in lock.pip],
            }
        )
        return 0


def conda_document(package: LockedPackage) -> dict[str, Any]:
    """One conda package for scripts; an unknown hash is null."""
    return {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "url": package.url,
        "md5": package.md5 or None,
        "sha256": package.sha256 or None,
    }


def pip_document(package: LockedPip) -> dict[str, Any]:
    """One pip package for scripts; `url` is null for what came from the index."""
    return {"name": package.name, "version": package.version, "url": package.url or None}
