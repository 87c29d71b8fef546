"""What every verb shares: the server's settings, --json, and the one place where an error becomes words."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any, ClassVar

from jupyter_core.application import JupyterApp
from traitlets import Bool, TraitError
from traitlets.config.loader import ConfigFileNotFound

from ..errors import SepalError, SettingsError
from ..settings import Sepal
from ..store import Stores


class SepalCommand(JupyterApp):
    """A verb of `jupyter sepal`. It reads jupyter_config and jupyter_server_config: each setting is written once."""

    verb: ClassVar[str] = ""
    summary: ClassVar[str] = ""

    classes = [Sepal]
    raise_config_file_errors = True
    config_file_name = "jupyter_server_config"

    json = Bool(False, help="Print one JSON document instead of text for people.").tag(config=True)

    aliases: dict[str, Any] = {
        "config": "JupyterApp.config_file",
        "log-level": "Application.log_level",
        "store": "Sepal.store",
    }
    flags: dict[str, Any] = {
        "json": ({"SepalCommand": {"json": True}}, "Print one JSON document instead of text for people."),
        "debug": ({"Application": {"log_level": logging.DEBUG}}, "Log everything."),
    }

    def _log_level_default(self) -> int:
        return logging.WARNING

    def load_config_file(self, suppress_errors: bool = True) -> None:  # type: ignore[override]  # as in JupyterApp
        """Read the server's configuration; a file that fails stops us, for its settings would silently be missing.

        Called by `initialize`. Raises SettingsError.
        """
        if self.config_file:
            if not Path(self.config_file).is_file():
                raise SettingsError(f"There is no configuration file {self.config_file}.")
            # JupyterApp wants a folder and a name; a bare name would be looked for nowhere.
            self.config_file = str(Path(self.config_file).resolve())
        try:
            super().load_config_file(suppress_errors=False)
        except ConfigFileNotFound:
            return
        except Exception as error:
            raise SettingsError(
                f"The configuration can't be read: {type(error).__name__}: {error}. Correct it and start again."
            ) from error

    def initialize(self, argv: Any = None) -> None:
        """Parse and load, with every fault told in words. Called by traitlets."""
        try:
            super().initialize(argv)
        except SepalError as error:
            self.fail(error)

    def start(self) -> None:
        """Run the verb. Called by traitlets; the one place where the command line catches errors."""
        super().start()
        try:
            code = self.run()
        except SepalError as error:
            self.fail(error)
        except TraitError as error:
            self.fail(SettingsError(f"A setting can't be used: {error}"))
        except KeyboardInterrupt:
            self.say("Stopped. A build that was started goes on; `jupyter sepal status` shows it.")
            code = 130
        self.exit(code)

    def run(self) -> int:
        """Do what the verb says and return the exit code. Raises SepalError."""
        raise NotImplementedError

    def settings(self) -> Sepal:
        """The settings of `c.Sepal`."""
        return Sepal(parent=self)

    def stores(self) -> Stores:
        """The stores that the settings name."""
        settings = self.settings()
        return Stores.of(settings.store, settings.search_stores)

    def fail(self, error: SepalError) -> None:
        """Say what went wrong and end with the error's own exit code."""
        if self.json:
            self.print_json({"error": error_document(error)})
        else:
            self.say(f"{self.name}: {error}")
        self.exit(error.exit_code)

    def print_json(self, document: Any) -> None:
        """Write one document to standard output."""
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Tell a person something that is no result: standard error."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def error_document(error: SepalError) -> dict[str, str]:
    """An error for scripts: `code` is stable, the texts are not."""
    return {"code": error.code, "message": error.message, "detail": error.detail}
