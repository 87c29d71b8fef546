"""`jupyter sepal prune`."""

from __future__ import annotations

import time
from textwrap import dedent
from typing import Any

from traitlets import Bool

from ..files import human_size, human_time
from ..prune import Item, apply, plan
from .command import SepalCommand
from .table import print_table


class PruneCommand(SepalCommand):
    """Remove what the store no longer needs, and say of everything why it stays or goes."""

    name = "jupyter-sepal-prune"
    verb = "prune"
    summary = "Remove what the store no longer needs."
    description = """Remove environments that no catalog names, older versions beyond c.Sepal.keep_generations, what
    failed or killed builds left, checkouts that are not needed, and unpacked packages that no environment shares. What
    a kernel runs from stays, and so does a checkout that holds somebody's changes. --dry-run shows the plan and changes
    nothing.
    """
    examples = dedent(
        """\
        jupyter sepal prune --dry-run
        jupyter sepal prune --keep=0 --json | jq .freed"""
    )

    dry_run = Bool(False, help="Show what would be removed, and why the rest stays.").tag(config=True)
    flags = {
        **SepalCommand.flags,
        "dry-run": ({"PruneCommand": {"dry_run": True}}, "Show the plan; change nothing."),
    }
    aliases = {**SepalCommand.aliases, "keep": "Sepal.keep_generations"}

    def run(self) -> int:
        settings, store = self.settings(), self.stores().own
        items = plan(store, settings)
        done = [item for item in items if item.remove] if self.dry_run else list(apply(store, items))
        freed = sum(item.size for item in done if item.remove)
        if self.json:
            kept = [item for item in items if not item.remove]
            documents = [item_document(item) for item in (*done, *kept)]
            self.print_json({"store": str(store.root), "dry_run": self.dry_run, "freed": freed, "items": documents})
            return 0
        shown = items if self.dry_run else done
        packages = [item for item in shown if item.kind == "package"]
        print_table(
            ("", "SIZE", "LAST USED", "WHAT", "WHY"),
            [
                *(_row(item, self.dry_run) for item in shown if item.kind != "package"),
                *_package_rows(packages, self.dry_run),
            ],
        )
        print(f"{'would free' if self.dry_run else 'freed'} {human_size(freed)} in {store.root}")
        return 0


def item_document(item: Item) -> dict[str, Any]:
    """One thing of a plan for scripts; these keys are documented and stay."""
    return {
        "kind": item.kind,
        "path": str(item.path),
        "kernel": item.kernel or None,
        "remove": item.remove,
        "reason": item.reason,
        "size": item.size,
        "last_used": item.last_used or None,
    }


def _row(item: Item, planned: bool) -> tuple[str, ...]:
    used = f"{human_time(max(0, time.time() - item.last_used))} ago" if item.last_used else ""
    what = f"{item.kernel} {item.path.name}" if item.kernel and item.kind != "checkout" else _below(item)
    return (_verb(item.remove, planned), human_size(item.size), used, what, item.reason)


def _below(item: Item) -> str:
    return f"{item.path.parent.name}/{item.path.name}"


def _package_rows(items: list[Item], planned: bool) -> list[tuple[str, ...]]:
    """Packages are many and alike: a line for each reason."""
    rows: list[tuple[str, ...]] = []
    for remove, reason in sorted({(item.remove, item.reason) for item in items}):
        same = [item for item in items if (item.remove, item.reason) == (remove, reason)]
        size = human_size(sum(item.size for item in same))
        rows.append((_verb(remove, planned), size, "", f"{len(same)} unpacked packages", reason))
    return rows


def _verb(remove: bool, planned: bool) -> str:
    return ("remove" if planned else "removed") if remove else "keep"
