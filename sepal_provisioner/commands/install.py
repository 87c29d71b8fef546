"""`jupyter sepal install`."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

from jupyter_core.paths import jupyter_data_dir
from traitlets import Bool, Unicode

from ..errors import SettingsError, StoreError
from ..files import read_bounded, store_error, write_atomic, write_json
from ..index import Kernel
from ..kernelspec import RESOURCES, installed_spec
from ..launcher import write_launch_file
from ..store import Store
from .command import SepalCommand


class InstallCommand(SepalCommand):
    """Write kernel specs to disk, for clients that never load our kernel spec manager."""

    name = "jupyter-sepal-install"
    verb = "install"
    summary = "Write kernel specs for jupyter console, papermill, editors."
    description = """Write real kernel specs, which `jupyter console`, nbclient, papermill and editors start without any
    configuration. They hold today's settings: install again after changing a setting or the catalog.

    Without names, every kernel is installed. Without an option, for this user only.
    """
    examples = dedent(
        """\
        jupyter sepal install --user
        jupyter sepal install venv-gwb --sys-prefix"""
    )

    user = Bool(False, help="Install for this user (the default).").tag(config=True)
    sys_prefix = Bool(False, help="Install into the environment that runs this command.").tag(config=True)
    prefix = Unicode("", help="Install below this folder, in share/jupyter/kernels.").tag(config=True)

    aliases = {**SepalCommand.aliases, "prefix": "InstallCommand.prefix"}
    flags = {
        **SepalCommand.flags,
        "user": ({"InstallCommand": {"user": True}}, "Install for this user (the default)."),
        "sys-prefix": (
            {"InstallCommand": {"sys_prefix": True}},
            "Install into the environment that runs this command.",
        ),
    }

    def run(self) -> int:
        target = self._target()
        stores = self.stores()
        names = self.extra_args or [kernel.name for _, kernel in stores.kernels()]
        installed = [self._install(target, *stores.find(name)) for name in names]
        if self.json:
            self.print_json({"installed": installed})
        else:
            for document in installed:
                print(f"{document['name']}: {document['path']}")
            if not installed:
                self.say("There are no kernels to install. `jupyter sepal sync` reads the catalogs.")
        return 0

    def _target(self) -> Path:
        if sum((self.user, self.sys_prefix, bool(self.prefix))) > 1:
            raise SettingsError("Say one of --user, --sys-prefix and --prefix=FOLDER.")
        if self.prefix or self.sys_prefix:
            return Path(self.prefix or sys.prefix).expanduser().absolute() / "share" / "jupyter" / "kernels"
        return Path(jupyter_data_dir()) / "kernels"

    def _install(self, target: Path, store: Store, kernel: Kernel) -> dict[str, Any]:
        """Write a kernel spec file by file, each by rename: a spec that is there already is never missing."""
        folder = target / kernel.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{folder} can't be written: {error.strerror}. Try --user, or --prefix with a folder of your own."
            ) from error
        launch_file = folder / "sepal.json"
        settings = self.settings()
        write_launch_file(launch_file, kernel.name, kernel.display_name, settings)
        logos = store.resources / kernel.resources if kernel.resources else RESOURCES
        try:
            for logo in logos.glob("logo-*"):
                write_atomic(folder / logo.name, read_bounded(logo, 1_000_000))
        except (OSError, ValueError) as error:
            raise store_error(error, folder) if isinstance(error, OSError) else StoreError(str(error)) from error
        write_json(folder / "kernel.json", installed_spec(kernel, launch_file))
        _link(folder / "venv", store.folder(kernel.name) / "current")
        return {"name": kernel.name, "path": str(folder)}


def _link(link: Path, target: Path) -> None:
    """A path to the environment that never changes, for what else a site runs from it (Voilà's extensions, say).

    An environment that lies there already stays.
    """
    if link.is_symlink() or not link.exists():
        temporary = link.with_name(f".venv.{os.getpid()}")
        with contextlib.suppress(OSError):
            temporary.symlink_to(target)
            os.replace(temporary, link)
