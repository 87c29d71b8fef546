"""`jupyter sepal adopt`."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

from traitlets import Bool, Unicode

from ..adopt import adopt, places
from ..errors import SepalError, SettingsError
from ..files import set_umask
from ..store import Stores, make_store
from .command import SepalCommand, error_document


class AdoptCommand(SepalCommand):
    """Take over environments that something else built, without building them again."""

    name = "jupyter-sepal-adopt"
    verb = "adopt"
    summary = "Take over existing environments without building them again."
    description = """Take over environments that another script built, in <Jupyter's data folder>/kernels/<kernel>/venv
    or where --prefix says. They stay where they are; each must pass the probes of a build and be no older than its
    repository's commit. Whatever is not adopted stays as it is, with the reason. Run `jupyter sepal sync` before, and
    `jupyter sepal install` afterwards for the kernel specs.
    """
    examples = dedent(
        """\
        jupyter sepal adopt --all
        jupyter sepal adopt venv-gwb --prefix=/usr/local/share/jupyter/kernels/venv-gwb/venv"""
    )

    all = Bool(False, help="Every kernel of the catalogs that is not ready.").tag(config=True)
    force = Bool(False, help="Also one that is older than its repository's commit.").tag(config=True)
    prefix = Unicode("", help="Where the environment is.").tag(config=True)
    aliases = {**SepalCommand.aliases, "prefix": "AdoptCommand.prefix"}
    flags = {
        **SepalCommand.flags,
        "all": ({"AdoptCommand": {"all": True}}, "Every kernel of the catalogs that is not ready."),
        "force": ({"AdoptCommand": {"force": True}}, "Also one that is older than its repository's commit."),
    }

    def run(self) -> int:
        stores = self.stores()
        if self.all == bool(self.extra_args) or (self.prefix and len(self.extra_args) != 1):
            raise SettingsError("Name kernels, or say --all; with --prefix name one kernel.")
        set_umask(make_store(self.settings()).root)
        names = self.extra_args or [kernel.name for _, kernel in stores.kernels()]
        documents = [document for name in names if (document := self._adopt(stores, name))]
        if self.json:
            self.print_json({"kernels": documents})
        elif not documents:
            print("There is nothing to adopt.")
        failed = [document for document in documents if document["error"]]
        return 0 if self.all or not failed else 1

    def _adopt(self, stores: Stores, name: str) -> dict[str, Any] | None:
        _, kernel = stores.find(name)
        if stores.observe(kernel).ready:
            return None
        found = Path(self.prefix) if self.prefix else next(iter(places(kernel.name)), None)
        if found is None:
            if self.all:
                return None
            raise SettingsError(f"No environment of {kernel.name} was found; say where it is with --prefix=FOLDER.")
        document: dict[str, Any] = {"name": kernel.name, "from": str(found), "prefix": None, "error": None}
        try:
            document["prefix"] = str(adopt(kernel, found, self.settings(), force=self.force, log=self.log.debug).path)
        except SepalError as error:
            document["error"] = error_document(error)
        if not self.json:
            print(f"{kernel.name}: {document['error']['message'] if document['error'] else f'adopted {found}'}")
        return document
