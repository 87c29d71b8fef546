"""Everything that can go wrong, on one page: one class for each answer a person can give.

    SepalError
    ├── SettingsError           settings-invalid        2   correct jupyter_server_config.py
    ├── CatalogError            catalog-invalid         3   correct the catalog, or reach it
    ├── RepositoryError         repository-failed       4   correct the repository, or reach it
    ├── EnvironmentFileError    environment-file        5   correct sepal_environment.yml
    ├── UnknownKernelError      unknown-kernel          6   ask for another kernel, or sync
    ├── StoreError              store-unusable          7   choose another store
    │   ├── StoreReadOnlyError  store-read-only         7   ask the administrator to build
    │   ├── PrefixTooLongError  prefix-too-long         7   choose a store with a shorter path
    │   ├── NoSpaceError        no-space                7   free space
    │   └── NotTrustedError     not-trusted             7   correct who may write the store
    ├── BusyError               busy                    8   wait for whoever holds the lock
    ├── PolicyError             not-allowed             9   ask the administrator, or change the repository
    ├── CommandError            command-not-found       127 correct the command that was to be run
    │   └── NotRunnableError    command-not-runnable    126 make the command executable
    └── BuildError              build-failed            10  read the log
        ├── NoEngineError       no-engine               11  install an engine
        ├── SolveError          unsolvable              12  relax the match specs
        ├── DownloadError       download-failed         13  reach the channel, or set a mirror
        ├── PipError            pip-failed              14  correct the pip section
        ├── ProbeError          probe-failed            15  correct what the environment holds
        ├── ChangedError        changed-meanwhile       16  start again
        ├── KilledError         build-killed            17  start again, with more memory or time
        └── CancelledBuildError build-cancelled         18  start again

A message says what is wrong in the user's own words, then the likely cause, then what helps. `code` is stable: scripts
and the documentation refer to it. `exit_code` is what `jupyter sepal` ends with.
"""

from __future__ import annotations


class SepalError(Exception):
    """What a person is told. `detail` holds a tool's own words (a solver's explanation, pip's last lines)."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message}\n\n{self.detail}" if self.detail else self.message


class SettingsError(SepalError):
    """A setting has a value that cannot be used."""

    code, exit_code = "settings-invalid", 2


class CatalogError(SepalError):
    """A catalog as a whole cannot be read; one bad entry is a `Problem`, not an error."""

    code, exit_code = "catalog-invalid", 3


class RepositoryError(SepalError):
    """A repository cannot be cloned, updated or read."""

    code, exit_code = "repository-failed", 4


class EnvironmentFileError(SepalError):
    """An environment file cannot be used; the message names the line."""

    code, exit_code = "environment-file", 5


class UnknownKernelError(SepalError):
    """No catalog names this kernel."""

    code, exit_code = "unknown-kernel", 6


class StoreError(SepalError):
    """A store cannot be used."""

    code, exit_code = "store-unusable", 7


class StoreReadOnlyError(StoreError):
    """No configured store can be written by this user."""

    code = "store-read-only"


class PrefixTooLongError(StoreError):
    """A prefix would be longer than what conda packages can embed."""

    code = "prefix-too-long"


class NoSpaceError(StoreError):
    """The store's file system, or the user's quota, is full."""

    code = "no-space"


class NotTrustedError(StoreError):
    """Another user could have written what would be launched."""

    code = "not-trusted"


class BusyError(SepalError):
    """Somebody else holds a lock for longer than we wait."""

    code, exit_code = "busy", 8


class PolicyError(SepalError):
    """The site's settings don't allow it."""

    code, exit_code = "not-allowed", 9


class CommandError(SepalError):
    """The command that was to be run in an environment is not there; shells end with the same exit code."""

    code, exit_code = "command-not-found", 127


class NotRunnableError(CommandError):
    """The command that was to be run in an environment is there, but can't be run."""

    code, exit_code = "command-not-runnable", 126


class BuildError(SepalError):
    """An environment could not be built; the classes below say at which step."""

    code, exit_code = "build-failed", 10


class NoEngineError(BuildError):
    """Nothing on this machine can create such an environment."""

    code, exit_code = "no-engine", 11


class SolveError(BuildError):
    """No set of packages satisfies the match specs; `detail` is the solver's explanation."""

    code, exit_code = "unsolvable", 12


class DownloadError(BuildError):
    """A channel, index or package cannot be reached or is damaged."""

    code, exit_code = "download-failed", 13


class PipError(BuildError):
    """The pip section cannot be installed; `detail` holds the installer's last lines."""

    code, exit_code = "pip-failed", 14


class ProbeError(BuildError):
    """The environment was built but does not work; `detail` is the probe's output."""

    code, exit_code = "probe-failed", 15


class ChangedError(BuildError):
    """The environment file changed between the request and the build."""

    code, exit_code = "changed-meanwhile", 16


class KilledError(BuildError):
    """The build ended without a word: it was killed, or the machine went down."""

    code, exit_code = "build-killed", 17


class CancelledBuildError(BuildError):
    """Somebody cancelled the build."""

    code, exit_code = "build-cancelled", 18


def every_error(root: type[SepalError] = SepalError) -> dict[str, type[SepalError]]:
    """Each code and the class that carries it: what turns a recorded failure back into an error."""
    found = {root.code: root}
    for child in root.__subclasses__():
        for code, error in every_error(child).items():
            found.setdefault(code, error)
    return found
