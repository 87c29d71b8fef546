"""The `argv` of a kernel spec on disk: finds the prefix, computes the environment, and becomes the kernel.

    python -m sepal_provisioner.launcher <kernel folder>/sepal.json -f <connection file>

Where there is no prefix yet it becomes the waiting kernel instead.

It serves clients that never load our manager: `jupyter console`, nbclient, papermill, editors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from . import process
from .errors import SepalError, SettingsError
from .files import read_json, write_json
from .launch import prepare, ready_generation
from .settings import Sepal
from .store import Stores


def write_launch_file(path: Path, name: str, display_name: str, settings: Sepal) -> None:
    """Record what the launcher needs: the kernel's name, and the settings as they are now."""
    write_json(
        path,
        {"name": name, "display_name": display_name, "settings": settings.to_json()},
        mode=0o600 if settings.channel_mirrors else 0o644,
    )


def launch(path: Path, arguments: list[str], base: Mapping[str, str]) -> None:
    """Become the kernel that `path` describes, or the one that waits for it. Raises SepalError."""
    try:
        document = read_json(path)
        name, settings = str(document["name"]), Sepal.from_json(document["settings"])
        display_name = str(document.get("display_name", name))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{path} can't be read ({error}). Install the kernel again: jupyter sepal install"
        ) from None
    generation = ready_generation(Stores.of(settings.store, settings.search_stores), name)
    if generation is None:
        # Imported here: a ready kernel starts without ever loading zmq.
        from .order import Order
        from .waiting import end_like, serve

        end_like(serve(Order(name, display_name, settings), arguments, base))
    ready = prepare(generation, name, base, settings)
    if ready.lock >= 0:
        os.set_inheritable(ready.lock, True)
    process.become([ready.python, "-m", "ipykernel_launcher", *arguments], ready.env)


def _say(text: str) -> None:
    sys.stderr.write(f"[sepal] {text}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> int:
    """The edge of this process: whatever goes wrong becomes a message and an exit code."""
    try:
        launch(Path(arguments[0]), arguments[1:], os.environ)
    except SepalError as error:
        _say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
