"""An application's own logo, copied to where Jupyter looks for it."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

from .files import read_bounded, resolve_inside, write_atomic

LOGO_LIMIT = 300_000  # bytes
# What Jupyter calls it, and the names under which repositories keep one, best first.
LOGOS = {
    "logo-64x64.png": ("logo-64x64.png", "logo.png"),
    "logo-svg.svg": ("logo-svg.svg", "logo.svg"),
}
# Jupyter serves logos from its own origin: an SVG that could run a script there is left out.
_ACTIVE_SVG = re.compile(
    r"<\s*([\w.-]+:)?(script|foreignObject|iframe|embed|object|handler)|<!ENTITY|<!DOCTYPE|<\?xml-stylesheet"
    r"|[\s/\"']on\w+\s*=|" + r"\s*".join("javascript:"),
    re.IGNORECASE,
)
_XML_ENCODING = re.compile(r"\A\s*<\?xml[^>]*?\sencoding\s*=\s*[\"']([^\"']*)", re.IGNORECASE)
_PLAIN_ENCODINGS = {"utf-8", "us-ascii", "iso-8859-1"}  # in which what we look for is spelt as we read it


def copy_logos(checkout: Path, target: Path) -> bool:
    """Copy a repository's logos into `target`; whether there was one. Raises StoreError."""
    found = False
    for name, candidates in LOGOS.items():
        for candidate in candidates:
            if not os.path.lexists(checkout / candidate):
                continue
            try:
                data = read_bounded(resolve_inside(checkout, candidate), LOGO_LIMIT)
            except (OSError, ValueError):
                continue
            if sound(data, name):
                if _differs(target / name, data):
                    write_atomic(target / name, data)
                found = True
                break
    return found


def sound(data: bytes, name: str) -> bool:
    """Whether an image is what its name says, and harmless where Jupyter serves it."""
    if name.endswith(".png"):
        return data.startswith(b"\x89PNG\r\n\x1a\n")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    encoding = _XML_ENCODING.match(text)
    if "\0" in text or (encoding and encoding[1].lower() not in _PLAIN_ENCODINGS):
        return False
    return "<svg" in text[:4096] and not _ACTIVE_SVG.search(html.unescape(text))


def _differs(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() != data
    except OSError:
        return True
