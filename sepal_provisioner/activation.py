"""What a prefix's activation scripts set, found out once when it is built: no launch ever runs a shell."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from .errors import ProbeError
from .process import run

SECONDS = 60
_SHELL_OWN = {"_", "SHLVL", "PWD", "OLDPWD", "CONDA_PREFIX", "PATH"}
_SOURCE_ALL = """
for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
  [ -r "$script" ] && . "$script" >&2
done
"$0" -0
"""


def record_activation(prefix: Path, base: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Source `etc/conda/activate.d/*.sh` in a clean shell: (the variables they set, the folders they put on PATH).

    Values are taken as they are after the scripts ran; nothing in them is expanded again. Raises ProbeError when a
    script fails or does not end.
    """
    if not any((prefix / "etc" / "conda" / "activate.d").glob("*.sh")):
        return {}, ()
    shell, env_program = shutil.which("bash") or shutil.which("sh"), shutil.which("env")
    if not shell or not env_program:
        raise ProbeError("The activation scripts can't be run: there is neither bash nor sh, or no env.")
    before = {
        name: base[name] for name in ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "TERM") if name in base
    }
    before |= {"CONDA_PREFIX": str(prefix), "PATH": f"{prefix}/bin:/usr/local/bin:/usr/bin:/bin"}
    # The script's $0 is `env`, by its full path: a prefix may bring an `env` of its own.
    command = [
        shell,
        *(["--noprofile", "--norc"] if shell.endswith("bash") else []),
        "-c",
        _SOURCE_ALL,
        env_program,
    ]
    done = run(command, env=before, cwd=prefix, timeout=SECONDS)
    if done.code or done.timed_out:
        raise ProbeError(
            "The environment's activation scripts (etc/conda/activate.d) fail.", detail=done.stderr[-4000:]
        )
    after = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)
    changed = {
        name: value
        for name, value in after.items()
        if name not in _SHELL_OWN and not name.startswith("BASH_FUNC_") and before.get(name) != value
    }
    known = before["PATH"].split(os.pathsep)
    added = tuple(part for part in after.get("PATH", "").split(os.pathsep) if part and part not in known)
    return changed, added
