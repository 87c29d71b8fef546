"""What a Prometheus server can read from the Jupyter server's own `/metrics`.

Everything is made when it is first counted. Where prometheus_client isn't loaded (a kernel that papermill starts)
nothing is counted, and nothing is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_BUCKETS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)


def launched(kind: str) -> None:
    """Count a start of a kernel: `ready`, or `waiting` where its environment has to be built first."""
    if metrics := _metrics():
        metrics["launches"].labels(kind).inc()


def built(result: str, durations: Mapping[str, float]) -> None:
    """Count a build that ended: `ok` or an error's code, and the seconds that each phase took."""
    if metrics := _metrics():
        metrics["builds"].labels("ok" if result == "ok" else "failed").inc()
        if result != "ok":
            metrics["failures"].labels(result).inc()
        for phase, seconds in durations.items():
            metrics["phases"].labels(phase).observe(seconds)


def stock(states: Mapping[str, int], size: float, free: float) -> None:
    """Set how many kernels are in which state, and the bytes that their environments take and that are free."""
    if metrics := _metrics():
        for state, count in states.items():
            metrics["kernels"].labels(state).set(count)
        metrics["size"].set(size)
        metrics["free"].set(free)


def write(path: Path) -> None:
    """Write everything that is counted as text, by rename: what node_exporter's textfile collector reads.

    For a process without a server. Raises OSError.
    """
    from prometheus_client import REGISTRY, write_to_textfile

    write_to_textfile(str(path), REGISTRY)


def available() -> bool:
    """Whether anything can be counted, by loading what counts. For a process that has been told to."""
    try:
        import prometheus_client
    except ImportError:
        return False
    return bool(prometheus_client)


def _metrics() -> Mapping[str, Any] | None:
    return _made() if "prometheus_client" in sys.modules else None


@cache
def _made() -> Mapping[str, Any]:
    from prometheus_client import Counter, Gauge, Histogram

    return {
        "builds": Counter("sepal_builds", "Builds that ended, by result (ok, failed).", ["result"]),
        "failures": Counter("sepal_build_failures", "Builds that failed, by error code.", ["code"]),
        "phases": Histogram("sepal_build_phase_seconds", "Seconds by phase of a build.", ["phase"], buckets=_BUCKETS),
        "launches": Counter("sepal_launches", "Starts of kernels: ready, or waiting for a build.", ["kind"]),
        "kernels": Gauge("sepal_kernels", "Kernels of the catalogs, by state.", ["state"]),
        "size": Gauge("sepal_environments_bytes", "Bytes of the environments in use, as measured by their builds."),
        "free": Gauge("sepal_store_free_bytes", "Bytes that are free where the store is."),
    }
