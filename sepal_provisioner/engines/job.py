"""What an engine is asked to do, and the means it has for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..catalog import text_without_credentials
from ..envfile import EnvironmentFile
from ..errors import BuildError, DownloadError, KilledError, NoSpaceError
from ..process import Completed, follow, tied
from ..progress import Reporter
from ..settings import Sepal

_FULL = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"Could not resolve host|Connection refused|timed out|Name or service not known|failure in name resolution"
    r"|error sending request|Failed to fetch|Could not fetch|Download error|Connection reset|HTTP status|status code"
    r"|Could not connect|dns error|Network is unreachable|No such file or directory.*repodata|NewConnectionError",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Job:
    """One prefix to create.

    `folder` is where the environment file lies (relative paths of its pip section are relative to it), `cache` the
    store's package cache, `env` the environment of every command, `keep` descriptors that the commands inherit, so
    that a build which loses its parent still holds its lock. `log` takes lines.
    """

    prefix: Path
    file: EnvironmentFile
    folder: Path
    cache: Path
    settings: Sepal
    reporter: Reporter
    env: Mapping[str, str]
    log: Callable[[str], None]
    deadline: Callable[[], float]
    keep: Sequence[int] = ()

    @property
    def python(self) -> str:
        """The prefix's interpreter."""
        return str(self.prefix / "bin" / "python")

    def run(
        self,
        command: Sequence[str],
        on_line: Callable[[str], None] = lambda line: None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        logged: bool = True,
    ) -> Completed:
        """Run a command with its output in the log, unless that would be a line for each of thousands of files.

        Raises BuildError when it takes too long or is killed.
        """
        self.log(f"$ {shown(command)}")

        def each(line: str) -> None:
            line = text_without_credentials(line)
            if logged:
                self.log(line)
            on_line(line)

        done = follow(
            tied(command),  # a build that was killed leaves nobody at work in its prefix
            each,
            cwd=cwd or self.folder,
            env={**self.env, **(env or {})},
            timeout=self.deadline(),
            keep=self.keep,
        )
        if done.timed_out:
            raise BuildError(
                f"The build took longer than {self.settings.build_timeout} s (c.Sepal.build_timeout).",
                detail=done.stdout,
            )
        if done.killed:
            raise KilledError(
                f"{Path(command[0]).name} was killed, most often for want of memory. Free some, and build again.",
                detail=done.stdout,
            )
        return done


def shown(command: Sequence[str]) -> str:
    """A command as a person would type it, without the credentials of URLs."""
    import shlex

    return shlex.join(text_without_credentials(word) for word in command)


def chain(error: BaseException) -> str:
    """An error and its causes, a line each: what py-rattler's errors need to say anything."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        texts.append(str(current) or type(current).__name__)
        current = current.__cause__
    return "\n".join(dict.fromkeys(texts))


def explain(message: str, detail: str, kind: type[BuildError] = BuildError) -> BuildError | NoSpaceError:
    """The error for a tool's output: no space and an unreachable channel are told apart from its own kind."""
    clean = text_without_credentials(detail)
    if _FULL.search(clean):
        return NoSpaceError(
            "There is no space left for this environment. Free some, or set c.Sepal.store to a larger disk.",
            detail=clean,
        )
    if kind is BuildError and _UNREACHABLE.search(clean):
        return DownloadError(
            "A channel or package can't be reached. Check the network, or set c.Sepal.channel_mirrors.",
            detail=clean,
        )
    return kind(message, detail=clean)
