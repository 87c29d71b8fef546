"""What a prefix holds, read from the records that conda and pip leave in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

RECORD_LIMIT = 20_000  # packages


def installed_packages(prefix: Path) -> list[dict[str, str]]:
    """Every package of a prefix: name, version, and for conda's also build and channel. Sorted by name."""
    found = [*_conda_packages(prefix), *_pip_packages(prefix)][:RECORD_LIMIT]
    return sorted(found, key=lambda package: (package["name"].lower(), package["source"]))


def _conda_packages(prefix: Path) -> Iterator[dict[str, str]]:
    for path in (prefix / "conda-meta").glob("*.json"):
        try:
            record = json.loads(path.read_bytes())
            yield {
                "source": "conda",
                "name": str(record["name"]),
                "version": str(record["version"]),
                "build": str(record.get("build") or ""),
                "channel": str(record.get("channel") or ""),
            }
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _pip_packages(prefix: Path) -> Iterator[dict[str, str]]:
    for folder in prefix.glob("lib/python3*/site-packages/*.dist-info"):
        try:
            if (folder / "INSTALLER").read_text(encoding="utf-8").strip() == "conda":
                continue
        except OSError:
            continue
        name, _, version = folder.name.removesuffix(".dist-info").partition("-")
        yield {"source": "pip", "name": name, "version": version}
