"""The logo that JupyterLab's launcher shows."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from ..files import read_bounded, resolve_inside
from ..logos import LOGO_LIMIT, LOGOS, sound
from .finding import Finding, finding
from .subject import Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Each file that is taken for a logo: whether it can be shown, and whether its size fits."""
    for kind, candidates in LOGOS.items():
        for path in candidates:
            if not os.path.lexists(subject.root / path):
                continue
            try:
                data = read_bounded(resolve_inside(subject.root, path), LOGO_LIMIT)
            except (OSError, ValueError) as error:
                yield finding("logo-unusable", f"It can't be used: {error}.", path)
                continue
            if not sound(data, kind):
                wanted = "no PNG image" if kind.endswith(".png") else "no plain SVG image (scripts are left out)"
                yield finding("logo-unusable", f"It is {wanted}, so the launcher shows the default logo.", path)
            elif kind.endswith(".png") and len(data) >= 24:
                width, height = struct.unpack(">II", data[16:24])  # PNG specification, 11.2.1: IHDR comes first
                if (width, height) != (64, 64):
                    yield finding("logo-size", f"It has {width} by {height} pixels; launchers show 64 by 64.", path)
            break
