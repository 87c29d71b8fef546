"""`jupyter sepal diff`."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from ..errors import SettingsError, UnknownKernelError
from ..generation import Generation
from ..lockfile import Lock
from ..provenance import read_lock
from .command import SepalCommand
from .lock import conda_document, pip_document
from .table import print_table

Key = tuple[str, str]


class DiffCommand(SepalCommand):
    """Show which packages changed between two builds of a kernel's environment."""

    name = "jupyter-sepal-diff"
    verb = "diff"
    summary = "Show which packages changed between two builds of a kernel."
    description = """Show which conda and pip packages were added, removed or changed between two of a kernel's
    environments: from the one before to the newest, from A to the newest, or from A to B. A and B are names of prefixes
    as `jupyter sepal diff NAME --json` and the folder of the environments show them, or how they begin.
    """
    examples = dedent(
        """\
        jupyter sepal diff venv-gwb
        jupyter sepal diff venv-gwb 0f3a 9c41e2 --json | jq '.changed[].name'"""
    )

    def run(self) -> int:
        if not 1 <= len(self.extra_args) <= 3:
            raise SettingsError("Name one kernel, and up to two of its environments: jupyter sepal diff venv-gwb")
        stores, mirrors = self.stores(), self.settings().channel_mirrors
        store, kernel = stores.find(self.extra_args[0])
        before, after = _pair(kernel.name, stores.complete(kernel.name), self.extra_args[1:])
        checkout = store.apps / kernel.checkout
        old, new = (_packages(read_lock(one.path, mirrors, checkout)) for one in (before, after))
        document = {"name": kernel.name, "from": before.path.name, "to": after.path.name, **difference(old, new)}
        if self.json:
            self.print_json(document)
        else:
            _print(document)
        return 0


def difference(old: dict[Key, dict[str, Any]], new: dict[Key, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What changed from one set of packages to another; each says where it is from (`source`) and its name."""

    def entry(key: Key, **more: Any) -> dict[str, Any]:
        return {"source": key[0], "name": key[1], **more}

    return {
        "added": [entry(key, **_what(new[key])) for key in sorted(new.keys() - old.keys())],
        "removed": [entry(key, **_what(old[key])) for key in sorted(old.keys() - new.keys())],
        "changed": [
            entry(key, **{"from": _what(old[key]), "to": _what(new[key])})
            for key in sorted(old.keys() & new.keys())
            if _differ(old[key], new[key])
        ],
    }


def _packages(lock: Lock) -> dict[Key, dict[str, Any]]:
    found: dict[Key, dict[str, Any]] = {("conda", package.name): conda_document(package) for package in lock.conda}
    return found | {("pip", package.name): pip_document(package) for package in lock.pip}


def _what(package: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in package.items() if key in ("version", "build", "url")}


def _differ(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """A hash that only one of them knows is no difference; the same build from another channel is none either."""
    keys = ("version", "build") if "build" in new else ("version", "url")
    hashes = [key for key in ("md5", "sha256") if old.get(key) and new.get(key)]
    return any(old[key] != new[key] for key in (*keys, *hashes))


def _pair(name: str, complete: list[Generation], words: list[str]) -> tuple[Generation, Generation]:
    """The two environments that are compared, the older first unless they are named. `complete` begins with the newest.

    Raises UnknownKernelError.
    """
    found: dict[str, Generation] = {}
    for generation in complete:
        found.setdefault(generation.path.name, generation)
    newest = list(found.values())
    named = [_named(word, found, name) for word in words]
    if not newest:
        raise UnknownKernelError(f"{name} has no environment yet. Build it: jupyter sepal build {name}")
    if not named and len(newest) < 2:
        raise UnknownKernelError(
            f"{name} has one environment only, {newest[0].path.name}, and nothing to compare it with. The next build "
            f"makes another: after a change of its file, or with jupyter sepal build {name} --force."
        )
    if not named:
        return newest[1], newest[0]
    return named[0], named[1] if len(named) > 1 else newest[0]


def _named(word: str, found: dict[str, Generation], name: str) -> Generation:
    if exact := found.get(word):
        return exact
    matching = [generation for key, generation in found.items() if key.startswith(word)]
    if len(matching) == 1:
        return matching[0]
    fault = "more than one environment that begins" if matching else "no environment that begins"
    there = ", ".join(found) or "none; build one"
    raise UnknownKernelError(f"{name} has {fault} with {word!r}. There are: {there}.")


def _print(document: dict[str, Any]) -> None:
    rows = [("added", one, "", _shown(one)) for one in document["added"]]
    rows += [("removed", one, _shown(one), "") for one in document["removed"]]
    rows += [("changed", one, _shown(one["from"]), _shown(one["to"])) for one in document["changed"]]
    if not rows:
        print(f"{document['name']}: the same packages in {document['from']} and {document['to']}")
        return
    print(f"{document['name']}: from {document['from']} to {document['to']}")
    print_table(
        ("CHANGE", "SOURCE", "NAME", "FROM", "TO"),
        [(change, one["source"], one["name"], old, new) for change, one, old, new in rows],
    )


def _shown(package: dict[str, Any]) -> str:
    url = "" if "build" in package else package["url"]
    return " ".join(part for part in (package["version"], package.get("build", ""), url) if part)
