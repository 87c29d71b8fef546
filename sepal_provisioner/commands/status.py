"""`jupyter sepal status`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from textwrap import dedent
from typing import Any

from ..engines import ENGINES
from ..files import human_size, human_time
from ..settings import Sepal
from ..store import Environment, State, Store, Stores
from ..watchfile import read_status
from .command import SepalCommand
from .list import build_document, failure_document, kernel_document
from .log import log_path
from .table import print_table

SHOWN_LINES = 30  # of a tool's own words; all of them are in the log


class StatusCommand(SepalCommand):
    """Show the store, its catalogs and its problems, or all that is known about some kernels."""

    name = "jupyter-sepal-status"
    verb = "status"
    summary = "Show the store's catalogs and problems, or explain one kernel."
    description = """Without a name: the stores, when each catalog was read, the engines, how many kernels are in which
    state, and every problem of the last sync. With names: what is known about these kernels, and why a build failed.
    """
    examples = dedent(
        """\
        jupyter sepal status
        jupyter sepal status venv-gwb"""
    )

    def run(self) -> int:
        stores, settings = self.stores(), self.settings()
        if self.extra_args:
            documents = [_kernel(stores, settings, name) for name in self.extra_args]
            if self.json:
                self.print_json(documents)
            else:
                print("\n\n".join(_kernel_text(document) for document in documents))
            return 0
        document = _overview(stores, settings)
        if self.json:
            self.print_json(document)
        else:
            _print_overview(document)
        return 0


def _overview(stores: Stores, settings: Sepal) -> dict[str, Any]:
    states = [stores.observe(kernel).state for _, kernel in stores.kernels()]
    return {
        "stores": [_store(store) for store in stores],
        "engines": {name: engine.version(settings) for name, engine in ENGINES.items()},
        "kernels": {state.value: states.count(state) for state in State},
    }


def _store(store: Store) -> dict[str, Any]:
    document: dict[str, Any] = {"path": str(store.root), "writable": store.writable(), "error": None}
    document["watch"] = read_status(store)
    try:
        index = store.index()
    except ValueError as error:
        return {**document, "error": str(error), "synced": None, "catalogs": [], "problems": []}
    return {
        **document,
        "synced": index.written or None,
        "catalogs": [asdict(state) for state in index.catalogs],
        "problems": [asdict(problem) for problem in index.problems],
    }


def _print_overview(document: dict[str, Any]) -> None:
    for store in document["stores"]:
        print(f"store {store['path']} ({'writable' if store['writable'] else 'read-only'})")
        print(f"  last sync: {_ago(store['synced'])}")
        if (watch := store["watch"]) and watch["running"]:
            print(f"  watch: {watch.get('state')}, on {watch.get('host')}, process {watch.get('pid')}")
        if store["error"]:
            print(f"  the index can't be read: {store['error']}")
        for catalog in store["catalogs"]:
            said = f"; now: {catalog['error']}" if catalog["error"] else ""
            print(f"  catalog {catalog['source']}: {catalog['apps']} entries, read {_ago(catalog['fetched'])}{said}")
        for problem in store["problems"]:
            print(f"  problem: {problem['place']}: {problem['message']}")
    print()
    print_table(
        ("ENGINE", "VERSION"), [(name, version or "not found") for name, version in document["engines"].items()]
    )
    print()
    print_table(("KERNELS", ""), [(state, str(count)) for state, count in document["kernels"].items()])


def _kernel(stores: Stores, settings: Sepal, name: str) -> dict[str, Any]:
    _, kernel = stores.find(name)
    environment = stores.observe(kernel)
    document = kernel_document(kernel, environment)
    document["problem"] = kernel.problem or None
    document["store"] = str(environment.store.root)
    document["log"] = str(log_path(environment, kernel.name, kernel.fingerprint))
    document["failure"] = _failure(environment, settings)
    document["progress"] = _progress(environment)
    document["build"] = _build(environment)
    document["rolled_back"] = environment.rolled_back
    return document


def _progress(environment: Environment) -> dict[str, Any] | None:
    progress = environment.progress
    if environment.state is not State.BUILDING or progress is None:
        return None
    return {
        "phase": progress.phase.value,
        "sentence": progress.sentence(),
        "fraction": round(progress.fraction, 3),
        "started": progress.started,
        "user": progress.user,
        "host": progress.host,
        "pid": progress.pid,
    }


def _failure(environment: Environment, settings: Sepal) -> dict[str, Any] | None:
    failure, progress = failure_document(environment, settings), environment.progress
    return {**failure, "user": progress.user, "host": progress.host} if failure and progress else None


def _build(environment: Environment) -> dict[str, Any] | None:
    try:
        return build_document(environment.ready.record()) if environment.ready else None
    except (OSError, ValueError):
        return None


def _kernel_text(document: dict[str, Any]) -> str:
    lines = [f"{document['name']}  {document['display_name']}", f"  state        {document['state']}"]
    lines += [f"  repository   {document['repository']} at {document['commit'][:12]}"]
    lines += [f"  file         {document['environment_file']} (fingerprint {document['fingerprint']})"]
    if document["problem"]:
        lines += [f"  problem      the newest version can't be used: {document['problem']}"]
    if build := document["build"]:
        lines += [
            f"  prefix       {document['prefix']}",
            f"  built        {_ago(build['built'])} by {build['user']} on {build['host']} with {build['engine']} in "
            f"{human_time(build['seconds'])}; {build['packages']} packages, {human_size(build['size'])}",
        ]
    if document["rolled_back"]:
        undo = f"jupyter sepal rollback {document['name']} --undo"
        lines += [f"  rolled back  this is not the newest version; to use that again: {undo}"]
    if progress := document["progress"]:
        lines += [f"  progress     {progress['sentence']} ({progress['fraction']:.0%})"]
        lines += [f"  started      {_ago(progress['started'])} by {progress['user']} on {progress['host']}"]
    if failure := document["failure"]:
        lines += [f"  failed       {failure['message']} [{failure['code']}]"]
        lines += [f"               {line}" for line in failure["detail"].splitlines()[-SHOWN_LINES:]]
        often = f", {failure['attempts']} times in a row" if failure["attempts"] > 1 else ""
        lines += [f"  when         {_ago(failure['when'])} by {failure['user']} on {failure['host']}{often}"]
        left = (failure["retry_at"] or 0) - time.time()
        lines += [f"  try again    jupyter sepal build {document['name']} --force"]
        lines += [f"               a launch tries {f'in {human_time(left)}' if left > 0 else 'the next time'}"]
    if document["state"] in ("missing", "stale"):
        lines += [f"  build it     jupyter sepal build {document['name']}"]
    if Path(document["log"]).is_file():
        lines += [f"  log          {document['log']}"]
    return "\n".join(lines)


def _ago(moment: float | None) -> str:
    return f"{human_time(max(0, time.time() - moment))} ago" if moment else "never"
