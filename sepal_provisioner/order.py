"""What a waiting kernel is told to start, and how it is told."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .errors import SettingsError
from .settings import Sepal

VARIABLE = "SEPAL_LAUNCH"


@dataclass(frozen=True)
class Order:
    """What to start: a kernel's name, the settings, and whether this start may build (an automatic restart may not)."""

    name: str
    display_name: str
    settings: Sepal
    may_build: bool = True

    def to_variable(self) -> str:
        """The order as the value of SEPAL_LAUNCH: an environment is read by the same user only, an argument by all."""
        return json.dumps(
            {
                "name": self.name,
                "display_name": self.display_name,
                "settings": self.settings.to_json(),
                "may_build": self.may_build,
            }
        )

    @classmethod
    def from_variable(cls, value: str | None) -> Order:
        """The order that `to_variable` wrote. Raises SettingsError."""
        try:
            document = json.loads(value or "")
            settings = Sepal.from_json(document["settings"])
            return cls(document["name"], document["display_name"], settings, bool(document["may_build"]))
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{VARIABLE} can't be read ({error}); start the kernel through Jupyter.") from None
