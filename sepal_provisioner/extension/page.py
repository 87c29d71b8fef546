"""The dashboard."""

from __future__ import annotations

from typing import Any

PAGES: list[tuple[str, Any]] = []
