"""The environment that a kernel starts in, computed as data: no shell, no change to our own `os.environ`.

`POLICY` is the whole of it. The platform exports PROJ_LIB, PYTHONPATH and LD_LIBRARY_PATH to every process, for other
programs' sake; a kernel must see its own prefix's data or, where its wheels bring their own, nothing at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path


@dataclass(frozen=True)
class Rule:
    """What happens to one variable at launch.

    `action` is `data` (point to `folder` of the prefix when it holds `witness`, else remove a value from elsewhere),
    `foreign` (remove a value that points outside the prefix), `remove`, or `shadow` (drop the entries of a library path
    that hold libraries which the prefix has itself).
    """

    variable: str
    action: str
    reason: str
    folder: str = ""
    witness: str = ""


POLICY = (
    Rule("PROJ_LIB", "data", "PROJ's data must fit its library", "share/proj", "proj.db"),
    Rule("PROJ_DATA", "data", "PROJ's data must fit its library", "share/proj", "proj.db"),
    Rule("GDAL_DATA", "data", "GDAL's data must fit its library", "share/gdal", ""),
    Rule("GDAL_DRIVER_PATH", "foreign", "plugins of another GDAL crash this one"),
    Rule("LD_LIBRARY_PATH", "shadow", "another copy of a library would win over the prefix's own"),
    Rule("PYTHONHOME", "remove", "it names another interpreter's library"),
    Rule("PYTHONPATH", "remove", "packages of another environment would win over the kernel's own"),
    Rule("PYTHONEXECUTABLE", "remove", "it names another interpreter"),
    Rule("VIRTUAL_ENV", "remove", "another environment's activation"),
    Rule("VIRTUAL_ENV_PROMPT", "remove", "another environment's activation"),
    Rule("CONDA_PREFIX", "remove", "another environment's activation"),
    Rule("CONDA_DEFAULT_ENV", "remove", "another environment's activation"),
    Rule("CONDA_PROMPT_MODIFIER", "remove", "another environment's activation"),
    Rule("CONDA_SHLVL", "remove", "another environment's activation"),
)


# What a build needs to find its programs, its user, the network, and pip's and uv's configuration.
BUILD_VARIABLES = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_*", "TZ", "TMPDIR", "TERM"),
    *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    *("PIP_*", "UV_*", "CONDA_OVERRIDE_*", "MAMBA_EXE", "SOURCE_DATE_EPOCH"),
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(?:^|_)KEY(?:$|_)|USERNAME", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """What is known about a prefix, without asking it again.

    `activation` is what its `etc/conda/activate.d` set when it was built, `variables` what its environment file sets,
    `path` the folders that activation put on PATH, `data` the folders of POLICY that it really holds, and `shadowed`
    the entries of the inherited LD_LIBRARY_PATH that hold libraries of its own.
    """

    prefix: str
    conda: bool = True
    activation: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    data: frozenset[str] = frozenset()
    shadowed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Decision:
    """Why a variable has its value at launch; `value` None means that it is not there."""

    variable: str
    value: str | None
    reason: str


def look(prefix: Path, base: Mapping[str, str], facts: Facts) -> Facts:
    """`facts` with what only the file system can say: a handful of stats, and the library path's folders if any."""
    data = frozenset(
        rule.folder for rule in POLICY if rule.action == "data" and _holds(prefix / rule.folder, rule.witness)
    )
    entries = [entry for entry in base.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]
    shadowed: frozenset[str] = frozenset()
    if entries:
        own = _libraries(prefix / "lib")
        shadowed = frozenset(e for e in entries if not _below(e, str(prefix)) and own & _libraries(Path(e)))
    return Facts(
        prefix=str(prefix),
        conda=facts.conda,
        activation=facts.activation,
        variables=facts.variables,
        path=facts.path,
        data=data,
        shadowed=shadowed,
    )


def decide(facts: Facts, base: Mapping[str, str], keep: Iterable[str] = ()) -> tuple[Decision, ...]:
    """Every variable that the launch changes, in the order in which the changes apply. Pure.

    `keep` names variables that stay as they are inherited, by an administrator's exception.
    """
    kept = frozenset(keep)
    decisions = [d for rule in POLICY if rule.variable not in kept for d in _apply(rule, facts, base)]
    home = "CONDA_PREFIX" if facts.conda else "VIRTUAL_ENV"
    own = [Decision(home, facts.prefix, "the kernel's own prefix")]
    own += [Decision(name, value, "set by the prefix's activation") for name, value in facts.activation.items()]
    front = [f"{facts.prefix}/bin", *facts.path]
    rest = [part for part in base.get("PATH", os.defpath).split(os.pathsep) if part and part not in front]
    own += [
        Decision("PATH", os.pathsep.join([*front, *rest]), "the kernel's own programs come first"),
        Decision("PYTHONNOUSERSITE", "1", "a user's ~/.local must not change a shared environment"),
    ]
    own += [Decision(name, value, "set by the environment file") for name, value in facts.variables.items()]
    return (*decisions, *(decision for decision in own if decision.variable not in kept))


def launch_environment(facts: Facts, base: Mapping[str, str], keep: Iterable[str] = ()) -> dict[str, str]:
    """A new environment for a kernel of this prefix, made from `base`. Pure."""
    env = dict(base)
    for decision in decide(facts, base, keep):
        if decision.value is None:
            env.pop(decision.variable, None)
        else:
            env[decision.variable] = decision.value
    return env


def build_environment(base: Mapping[str, str], more: Iterable[str] = ()) -> dict[str, str]:
    """The environment that a build and its commands run in: only what they need of `base`, and what `more` allows.

    A package's build script is a stranger's program: it gets no token of the hub, the cloud or the user. Pure.
    """
    allowed = (*BUILD_VARIABLES, *more)
    env = {
        name: value
        for name, value in base.items()
        if any(fnmatchcase(name, pattern) for pattern in allowed) and (name in more or not _SECRET.search(name))
    }
    return env | {"PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}


def _apply(rule: Rule, facts: Facts, base: Mapping[str, str]) -> Iterable[Decision]:
    inherited = base.get(rule.variable)
    if rule.action == "data" and rule.folder in facts.data:
        yield Decision(rule.variable, f"{facts.prefix}/{rule.folder}", f"{rule.reason}: the prefix has its own")
    elif inherited is None:
        return
    elif rule.action in ("data", "foreign"):
        if not _below(inherited, facts.prefix):
            yield Decision(rule.variable, None, f"{rule.reason}; inherited {inherited!r} is not the prefix's")
    elif rule.action == "shadow":
        left = [entry for entry in inherited.split(os.pathsep) if entry and entry not in facts.shadowed]
        if facts.shadowed:
            yield Decision(rule.variable, os.pathsep.join(left) or None, rule.reason)
    else:
        yield Decision(rule.variable, None, rule.reason)


def _below(value: str, prefix: str) -> bool:
    """Whether every entry of a path variable lies in the prefix."""
    entries = [os.path.normpath(entry) for entry in value.split(os.pathsep) if entry]
    return all(entry == prefix or entry.startswith(prefix + os.sep) for entry in entries)


def _holds(folder: Path, witness: str) -> bool:
    if witness:
        return (folder / witness).is_file()
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _libraries(folder: Path) -> set[str]:
    """The shared libraries of a folder by their name up to `.so`: `libgdal.so.34` shadows `libgdal.so`."""
    try:
        return {name.partition(".so")[0] for name in os.listdir(folder) if ".so" in name}
    except OSError:
        return set()
