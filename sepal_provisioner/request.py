"""A build that is asked for: what whoever asks writes, and the process that builds reads."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import SettingsError
from .files import read_json, write_json
from .index import Kernel, kernel_from_json
from .settings import Sepal
from .store import Store

BUILDER = "sepal_provisioner.builder"  # named here, imported by its own process only: it loads the engines


@dataclass(frozen=True)
class Request:
    """A build to do: which kernel, from which checkout, into which store, and under which settings."""

    kernel: Kernel
    checkout: Path
    store: Path
    settings: Sepal
    force: bool = False

    def write(self) -> Path:
        """Write the request beside the environment; returns its path. Mirrors may hold passwords: mode 0600."""
        path = Store(self.store).beside(self.kernel.name, self.kernel.fingerprint, "request.json")
        document = {
            "kernel": asdict(self.kernel),
            "checkout": str(self.checkout),
            "store": str(self.store),
            "settings": self.settings.to_json(),
            "force": self.force,
        }
        write_json(path, document, mode=0o600)
        return path

    @classmethod
    def read(cls, path: Path) -> Request:
        """The request that `write` wrote. Raises SettingsError."""
        try:
            document = read_json(path)
            return cls(
                kernel=kernel_from_json(document["kernel"]),
                checkout=Path(document["checkout"]),
                store=Path(document["store"]),
                settings=Sepal.from_json(document["settings"]),
                force=bool(document["force"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"The build request {path} can't be read: {error}") from None


def command(request: Path) -> list[str]:
    """What starts a build, and what starts it again by hand."""
    return [sys.executable, "-m", BUILDER, str(request)]
