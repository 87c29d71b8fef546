"""`jupyter sepal watch`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

from traitlets import Bool, Integer, Unicode

from .. import metrics
from ..errors import SettingsError
from ..notify import Notifier
from ..watch import Watch
from .command import SepalCommand

INTERVAL = 300  # seconds, where neither the option nor c.Sepal.refresh_interval names one


class WatchCommand(SepalCommand):
    """Keep the store up to date for as long as it runs."""

    name = "jupyter-sepal-watch"
    verb = "watch"
    summary = "Keep syncing and building, as a service."
    description = """Sync every so often and build what is not ready, for as long as it runs. While a changed
    environment is being built, kernels start from the older version. What failed is tried again after ever longer
    waits. What it does stands in <store>/watch.json and, line by line, on standard error; systemd is told when it is
    ready and that it is alive (Type=notify). SIGTERM and Ctrl-C end it at once with exit code 0; builds that run are
    processes of their own and are left to finish.
    """
    examples = dedent(
        """\
        jupyter sepal watch --jobs=2 --prune --metrics=/var/lib/node_exporter/sepal.prom
        jupyter sepal watch --interval=60 --config=/etc/jupyter/jupyter_server_config.py"""
    )

    interval = Integer(
        0,
        min=0,
        help="Seconds between two syncs. 0: as c.Sepal.refresh_interval says, and 300 where that is 0, too.",
    ).tag(config=True)
    jobs = Integer(1, min=1, max=64, help="How many builds run at the same time.").tag(config=True)
    prune = Bool(False, help="Remove what is no longer needed, once the builds are done.").tag(config=True)

    metrics = Unicode("", help="A file for Prometheus (node_exporter's textfile collector): FOLDER/sepal.prom.").tag(
        config=True
    )

    aliases = {
        **SepalCommand.aliases,
        "interval": "WatchCommand.interval",
        "jobs": "WatchCommand.jobs",
        "metrics": "WatchCommand.metrics",
    }
    flags = {
        **SepalCommand.flags,
        "prune": (
            {"WatchCommand": {"prune": True}},
            "Remove what is no longer needed, once the builds are done (as `jupyter sepal prune` does).",
        ),
    }

    def run(self) -> int:
        settings = self.settings()
        if not settings.catalogs:
            raise SettingsError("There is nothing to watch: set c.Sepal.catalogs in jupyter_server_config.py.")
        if self.metrics and not metrics.available():
            raise SettingsError("--metrics needs prometheus_client: pip install prometheus-client")
        watch = Watch(
            settings,
            self._log_line,
            Notifier(os.environ),
            interval=self.interval or settings.refresh_interval or INTERVAL,
            jobs=self.jobs,
            prune=self.prune,
            metrics_file=Path(self.metrics).absolute() if self.metrics else None,
        )

        def stop(signum: int, frame: Any) -> None:
            watch.stop.set()

        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, stop)
        watch.run()
        if self.json:
            self.print_json(watch.status.document())
        return 0

    def _log_line(self, text: str) -> None:
        """A line of the log; the journal has a clock of its own."""
        clock = "" if "JOURNAL_STREAM" in os.environ else time.strftime("%Y-%m-%d %H:%M:%S ")
        self.say(clock + text.replace("\n", "\n  "))
