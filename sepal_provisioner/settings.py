"""Every setting, declared once: the manager, the provisioner and the command line share this one Configurable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from traitlets import Bool, CaselessStrEnum, Dict, Float, Integer, List, TraitError, Unicode, validate
from traitlets.config import Configurable

from .errors import SettingsError


class Sepal(Configurable):
    """Settings of sepal_provisioner, written as `c.Sepal.<name> = …` in jupyter_server_config.py."""

    catalogs = List(
        Unicode(),
        help="""Catalogs, in order; of two kernels with the same name the first one found wins. Each is the path of a
        file, an http(s) URL, or `git+<repository URL>[@branch]#<path in the repository>`. Default: none, which lists
        no kernels of its own.""",
    ).tag(config=True)

    store = Unicode(
        help="""The folder that holds clones, environments and the package cache. Whoever may write it builds; others
        use what is there. Prefixes embed this path, so it can't be moved, and a short one is best.
        Default: `sepal` in Jupyter's user data folder.""",
    ).tag(config=True)

    search_stores = List(
        Unicode(),
        help="""Stores that are looked in first and never written, in order: a shared read-only store before the
        user's own. Default: none.""",
    ).tag(config=True)

    engine = CaselessStrEnum(
        ["auto", "micromamba", "rattler"],
        default_value="auto",
        help="""What creates conda environments. `auto` takes micromamba when it is found (`c.Sepal.micromamba`,
        MAMBA_EXE, PATH) and the embedded py-rattler otherwise.""",
    ).tag(config=True)

    micromamba = Unicode("", help="""Path of the micromamba program. Default: MAMBA_EXE, else what PATH finds.""").tag(
        config=True
    )

    channel_mirrors = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        help="""Where to fetch a channel from instead: {"conda-forge": "file:///srv/channel/conda-forge"}. Keys are
        channel names or URLs as environment files have them, values are `file://` or `http(s)://` URLs. An empty value
        leaves the channel out, which suits sites that may not use `defaults`. Default: no redirection.""",
    ).tag(config=True)

    default_requirements = List(
        Unicode(),
        help="""Requirements that every `requirements.txt` kernel gets first, such as a gdal pinned to the system's.
        They count in the fingerprint, so a change builds these kernels anew. Default: none.""",
    ).tag(config=True)

    requirements_python = Unicode(
        "",
        help="""The interpreter that `requirements.txt` environments are made from. It must be readable by every user
        of the store. Default: the one that runs Jupyter.""",
    ).tag(config=True)

    refresh_interval = Integer(
        300,
        min=0,
        help="""Seconds between two syncs that a server runs in the background, if it may write the store.
        0: only `jupyter sepal sync` refreshes.""",
    ).tag(config=True)

    first_sync_wait = Float(
        5.0,
        min=0,
        help="""Seconds that the very first listing of an empty store waits for the first sync. Default: 5.""",
    ).tag(config=True)

    sync_jobs = Integer(
        8, min=1, max=64, help="""How many repositories are cloned or updated at the same time. Default: 8."""
    ).tag(config=True)

    git_timeout = Integer(
        120,
        min=1,
        help="""Seconds that cloning or updating one repository may take. Default: 120.""",
    ).tag(config=True)

    catalog_timeout = Integer(
        20, min=1, help="""Seconds that fetching one catalog over http(s) may take in all. Default: 20."""
    ).tag(config=True)

    repository_schemes = List(
        Unicode(),
        default_value=["https", "ssh"],
        help="""URL schemes that a catalog's repositories may have. Add `file` for repositories on this machine.
        Default: https and ssh.""",
    ).tag(config=True)

    repository_hosts = List(
        Unicode(),
        help="""Where a catalog's repositories may be: hosts, or hosts with an owner, such as
        "github.com/sepal-contrib". Default: anywhere.""",
    ).tag(config=True)

    require_commit = Bool(
        False,
        help="""Build only entries of a catalog that pin a `commit`; the others are listed, and what is built of them
        stays. Default: False.""",
    ).tag(config=True)

    allowed_channels = List(
        Unicode(),
        help="""The conda channels that an environment file may name, as names or URLs: ["conda-forge"]. A file that
        names another one is not built. Default: any.""",
    ).tag(config=True)

    allowed_hosts = List(
        Unicode(),
        help="""The hosts that the pip section of an environment file may name, in indexes, direct URLs and version
        control URLs: ["pypi.org", "github.com"]; a host with a path allows what lies below it only. Default: any.""",
    ).tag(config=True)

    contact = Unicode(
        "",
        help="""Whom users ask for an environment that they may not build themselves: "sepal@example.org". It stands in
        that message. Default: nobody is named.""",
    ).tag(config=True)

    group = Unicode(
        "",
        help="""The group whose members may write the store, by name. It is given to a store that is made; an existing
        one is changed with chgrp and chmod g+ws. Default: none; only the owner writes.""",
    ).tag(config=True)

    trusted_users = List(
        Unicode(),
        help="""Users, by name or number, whose stores may be launched from, besides root and whoever launches. A prefix
        that any other user could have written is refused. Default: none.""",
    ).tag(config=True)

    keep_generations = Integer(
        1,
        min=0,
        help="""How many older ready prefixes of a kernel `jupyter sepal prune` leaves beside the newest one, for
        `jupyter sepal rollback`. Default: 1.""",
    ).tag(config=True)

    usage_folder = Unicode(
        "",
        help="""A folder that every user may write (mode 1777), where launches note when a prefix was last used: for
        whoever prunes a shared store that is mounted read-only elsewhere. Default: none; the time at which a launch
        last read the prefix counts.""",
    ).tag(config=True)

    min_free_space = Integer(
        2_000_000_000,
        min=0,
        help="""Bytes that must be free in the store before a build starts. Default: 2 GB.""",
    ).tag(config=True)

    build_memory = Integer(
        0, min=0, help="""Bytes of memory that each process of a build may have. Default: 0, no limit."""
    ).tag(config=True)

    build_processes = Integer(
        0,
        min=0,
        help="""How many processes the user who builds may have while building (RLIMIT_NPROC). Default: 0, no limit.""",
    ).tag(config=True)

    build_niceness = Integer(
        10,
        min=0,
        max=19,
        help="""How far builds stand back for everything else (nice). With 10, a build gets a tenth of a busy processor
        that it shares with one other session, with 19 a seventieth, with 0 half of it. Default: 10.""",
    ).tag(config=True)

    build_variables = List(
        Unicode(),
        help="""Variables that builds inherit besides the few that they need (PATH, HOME, proxies, certificates, where
        pip and uv are configured); `NAME_*` for all that begin so. Default: none.""",
    ).tag(config=True)

    build_timeout = Integer(7200, min=1, help="""Seconds that building one environment may take. Default: 7200.""").tag(
        config=True
    )

    retry_after = Integer(
        900,
        min=0,
        help="""Seconds during which a failed build is not tried again by a launch, which shows the reason at once
        instead; each further failure doubles them, up to a day. A changed environment file, or
        `jupyter sepal build --force`, is always tried. Default: 900.""",
    ).tag(config=True)

    when_outdated = CaselessStrEnum(
        ["start", "wait"],
        default_value="start",
        help="""What a launch does when only an older version of the environment is ready. `start` starts that one at
        once, says so under the first cell, and builds the new one in the background; `wait` waits for the new one.""",
    ).tag(config=True)

    keep_variables = Dict(
        key_trait=Unicode(),
        value_trait=List(Unicode()),
        help="""Variables that kernels inherit although the launch policy would change or remove them:
        {"venv-gwb": ["PYTHONPATH"], "*": ["LD_LIBRARY_PATH"]}, by kernel name or `*` for all. Default: none.""",
    ).tag(config=True)

    kernel_spec_manager_class = Unicode(
        "",
        help="""The kernel spec manager whose kernels are listed besides the catalog's, for people who use another one
        in that slot: "nb_conda_kernels.CondaKernelSpecManager". Default: jupyter_client's own.""",
    ).tag(config=True)

    def _store_default(self) -> str:
        from jupyter_core.paths import jupyter_data_dir

        return str(Path(jupyter_data_dir()) / "sepal")

    @validate("store")
    def _absolute_store(self, proposal: Any) -> str:
        path = _expanded(proposal.value)
        if not proposal.value or not path.is_absolute():
            raise TraitError(f"c.Sepal.store must be an absolute path, not {proposal.value!r}: prefixes embed it")
        return str(path)

    @validate("search_stores")
    def _absolute_stores(self, proposal: Any) -> list[str]:
        paths = [_expanded(value) for value in proposal.value]
        for path in paths:
            if not path.is_absolute():
                raise TraitError(f"c.Sepal.search_stores must hold absolute paths, not {str(path)!r}")
        return [str(path) for path in paths]

    @property
    def schemes(self) -> frozenset[str]:
        """The repository schemes as a set, in lower case."""
        return frozenset(scheme.lower() for scheme in self.repository_schemes)

    @property
    def interpreter(self) -> str:
        """The interpreter that requirements environments are made from."""
        return self.requirements_python or sys.executable

    def to_json(self) -> dict[str, Any]:
        """Every setting as plain data: how a build process and an installed kernel spec get ours."""
        return {name: getattr(self, name) for name in sorted(self.trait_names(config=True))}

    @classmethod
    def from_json(cls, document: Any) -> Sepal:
        """The settings that `to_json` wrote; unknown names are left out. Raises SettingsError."""
        if not isinstance(document, dict):
            raise SettingsError("The recorded settings can't be read: expected an object.")
        known = {name: document[name] for name in cls.class_trait_names(config=True) if name in document}
        try:
            return cls(**known)
        except TraitError as error:
            raise SettingsError(f"The recorded settings can't be used: {error}") from None


def _expanded(path: str) -> Path:
    """A path with its `~` replaced, or as it is where nobody of that name is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
