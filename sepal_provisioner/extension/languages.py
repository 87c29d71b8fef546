"""The dashboard's words, in the language that somebody reads."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("words")
LANGUAGES = ("en", "fr", "es")


def choose(asked: str, accepted: str) -> str:
    """The language that was asked for (`?lang=`), else the browser's favourite (Accept-Language), else English."""
    weighted: list[tuple[float, str]] = []
    for part in accepted.split(","):
        name, _, quality = part.partition(";")
        try:
            weight = float(quality.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        weighted.append((-weight, name))
    for name in (asked, *(name for _, name in sorted(weighted, key=lambda pair: pair[0]))):
        if (short := name.strip().lower().split("-")[0]) in LANGUAGES:
            return short
    return LANGUAGES[0]


@cache
def words(language: str) -> dict[str, str]:
    """Every text of the page, by its key."""
    found: dict[str, str] = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return found
